"""What every study is made of: a plan, a store of finished arms, a runner, and rules that were fixed in advance."""

from unstick.studies.frame.catalog import all_studies, find_study
from unstick.studies.frame.comparing import (
    Effect,
    Side,
    Verdict,
    combined,
    paired,
    share,
    verdict_near,
    verdict_of,
    within,
)
from unstick.studies.frame.overview import Overview, overview_of
from unstick.studies.frame.plan import Arm, Decision, Picture, Series, Setting, Study, Task
from unstick.studies.frame.result import StudyResult
from unstick.studies.frame.running import results_of, run_study
from unstick.studies.frame.store import Store, check_stores, merge_stores
from unstick.studies.frame.table import Row, Table

__all__ = [
    "Arm",
    "Decision",
    "Effect",
    "Overview",
    "Picture",
    "Row",
    "Series",
    "Setting",
    "Side",
    "Store",
    "Study",
    "StudyResult",
    "Table",
    "Task",
    "Verdict",
    "all_studies",
    "check_stores",
    "combined",
    "find_study",
    "merge_stores",
    "overview_of",
    "paired",
    "results_of",
    "run_study",
    "share",
    "verdict_near",
    "verdict_of",
    "within",
]
