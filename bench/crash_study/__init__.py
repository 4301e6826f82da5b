"""What ``bench/crash_test.py`` does to runs: kills, full disks, outages, bad inputs, long soaks."""
