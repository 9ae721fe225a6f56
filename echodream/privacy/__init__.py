"""The privacy filter and its audit, as pure functions: scores, calibration, certified bounds, remaining risk."""
