"""Never patch. Rebake: sealed releases, raised beside what runs, judged on real traffic, kept or taken back."""

__version__ = "0.1.0"
