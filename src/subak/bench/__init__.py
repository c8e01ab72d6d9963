"""The benchmark that users run: questions at a rate, answers read to their end, figures with objectives."""
