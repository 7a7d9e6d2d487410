"""Reinforcement learning from human feedback in torch: no Django, no Celery, no database.

A program of its own: `python -m training.engine METHOD CONFIG.json OUT/`.
"""
