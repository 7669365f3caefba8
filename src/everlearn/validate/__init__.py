"""Validate: is an image fit to learn from, is it there already, and is its label to be believed?"""
