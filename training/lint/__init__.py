"""What is wrong with a data set, told before a GPU is paid for.

`lint.lint` does all of it on utterances, from whatever source they come, and `report` says what came out. It mends,
drops and moves nothing: a rule that leaves rows out belongs to `training.data`.
"""
