"""Tests of the search in tables of embeddings."""
