"""What the stages need of several rooms where the task is `detect`.

`sides`: the scenes of a snapshot, and what is known of each; `learning`: the detector as every turn's learner;
`answering`: which detector is meant, and what it finds; `prove`: how good it is, and against the champion;
`labelling`: automatic labels, and proposals for people; `crops`: what an exact memory tells apart inside of the boxes;
`teaching`: a new kind of it by a handful of images.
"""
