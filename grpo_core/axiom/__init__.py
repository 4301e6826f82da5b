"""Dashboards, monitors and annotations in Axiom, made from the panels and the stored verdicts by one command."""
