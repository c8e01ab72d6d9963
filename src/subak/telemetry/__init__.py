"""Who hears facts (logs, metrics, traces): may know core; never refuses, delays or raises into what it observes."""
