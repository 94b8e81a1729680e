"""KPIs: definitions, the gate language, intervals and verdicts. Pure: numbers in, values out."""
