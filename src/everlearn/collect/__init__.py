"""Takes in what cameras and data sets offer: sources give streams of `Found` and `Refused`, and touch no catalog."""
