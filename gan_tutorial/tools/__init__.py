"""The command `gan-tutorial`: what runs, checks and fetches; notebooks import none of it."""
