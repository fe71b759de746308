"""The template and the built stack as sam and Lambda's limits see them."""

from tools import SAM, run


def test_sam_and_cfn_lint_find_nothing_to_say():
    assert "is a valid SAM Template" in run(SAM, "validate", "--lint").stdout
