"""Backtests of the forecasters on days of load, with the papers' network beside ours."""
