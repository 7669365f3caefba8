"""How good a detector is, where it errs, and whether it is better than another one."""

from everlearn.evaluate.detection.compare import compare_detection as compare_detection
from everlearn.evaluate.detection.matching import Seen as Seen
from everlearn.evaluate.detection.metrics import DetectionMetrics as DetectionMetrics
from everlearn.evaluate.detection.metrics import detection as detection
