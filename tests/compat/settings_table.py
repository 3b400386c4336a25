"""The table of settings in docs/operations.md, from the models: `python -m tests.compat.settings_table`."""

from docs_reference.service_settings_page import service_settings_table

if __name__ == "__main__":
    print(service_settings_table())
