"""Plans and profiles as tables, texts, pictures and pages: reads, decides nothing."""
