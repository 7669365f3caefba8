"""What the stages need of several rooms where the task is `detect`.

`sides`: the scenes of a snapshot, and what is known of each; `learning`: what a training goes on from and learns, and
the training as a run; `missing`: labels that nobody gave, filled in; `taught`: the version that comes of it.
`answering`: which detector is meant, and what it finds, of which `kept` remembers; `prove`: how good it is, and against
the champion; `optimising`: smaller files.
`labelling`: automatic labels, by what `proposing` models say and what is `reviewed`; `boxes`: their quality.
`crops`: what an exact memory tells apart inside of the boxes; `teaching`: a new kind of it by a handful of images.
`training`: `train`, as a person asks for it; `trying`, `tuning`, `analysing`: experiments; `feedback`: what people say
of answers; `certifying`: what can be checked after something was forgotten.
"""
