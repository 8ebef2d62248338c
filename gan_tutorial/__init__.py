"""The one small module behind the notebooks of gan_tutorial.

Import from its parts (`gan_tutorial.data`, `network`, `training`, ...): this file stays empty, so that the command
line answers at once.
"""
