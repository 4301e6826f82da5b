"""Diplomacy: seven powers, the standard map, orders as text."""
