"""Networks and their weights: teachers, layer statistics, training, label ensembles."""
