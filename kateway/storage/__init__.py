"""Stores of records: the contract and its drivers."""
