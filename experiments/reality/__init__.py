"""Worlds that differ from the plan: wrong profiles, neighbours, bursts, late metrics, no room to change."""
