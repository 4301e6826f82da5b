"""What a pytest session owns: fixtures, the report of verdicts, the results that it stores."""
