"""Labels: automatic where the model is sure enough, by people for the rest."""
