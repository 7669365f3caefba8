"""What training a network is made of: the recipe and what it names. The loop itself is `learn.fit`."""
