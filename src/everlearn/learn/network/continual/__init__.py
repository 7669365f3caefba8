"""Learning new classes without losing the old ones, in a network that is trained. Each method is one file of a screen.

`method.py` says what a method is asked; `naive.py` answers nothing. `experiences.py` walks through them.
"""
