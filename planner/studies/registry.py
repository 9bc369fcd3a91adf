"""Every baseline, in the order in which tables list them."""

from planner.heuristics import controls
from planner.heuristics.capuchin import CAPUCHIN
from planner.heuristics.deepcompile import DEEPCOMPILE
from planner.heuristics.flashneuron import FLASHNEURON
from planner.heuristics.heuristic import Baseline
from planner.heuristics.pytorch_lms import PYTORCH_LMS
from planner.heuristics.superneurons import SUPERNEURONS
from planner.heuristics.swapadvisor import SWAPADVISOR
from planner.heuristics.teraio import G10, TERAIO
from planner.heuristics.tflms import TFLMS_V1, TFLMS_V2
from planner.heuristics.torch_pass import TORCH_PASS, TORCH_PASS_SINK
from planner.heuristics.torchtitan import TORCHTITAN
from planner.heuristics.torchtune import TORCHTUNE
from planner.heuristics.vdnn import VDNN_ALL, VDNN_CONV

PUBLISHED: tuple[Baseline, ...] = (
    VDNN_ALL,
    VDNN_CONV,
    TFLMS_V1,
    TFLMS_V2,
    PYTORCH_LMS,
    SUPERNEURONS,
    CAPUCHIN,
    SWAPADVISOR,
    FLASHNEURON,
    G10,
    TERAIO,
    TORCHTUNE,
    TORCH_PASS,
    TORCH_PASS_SINK,
    TORCHTITAN,
    DEEPCOMPILE,
)
CONTROLS: tuple[Baseline, ...] = (
    controls.NOTHING,
    controls.EVERYTHING,
    controls.ALL_ACTIVATIONS,
    controls.LARGEST_FIRST,
    controls.SIZE_TIMES_GAP,
)
BASELINES = PUBLISHED + CONTROLS
