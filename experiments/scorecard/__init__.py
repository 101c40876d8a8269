"""The scorecard: what plans predict, beside what real processes do."""
