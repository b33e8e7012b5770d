"""The page about the command line says what the command line says."""

import cli_page


def test_the_cli_page_is_up_to_date():
    assert cli_page.PAGE.read_text(encoding="utf-8") == cli_page.page(), "run `make fix`"
