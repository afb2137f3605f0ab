"""Tests of tables of embeddings."""
