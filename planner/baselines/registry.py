"""Every baseline, in the order in which tables list them."""

from planner.baselines import controls
from planner.baselines.baseline import Baseline
from planner.baselines.capuchin import CAPUCHIN
from planner.baselines.deepcompile import DEEPCOMPILE
from planner.baselines.flashneuron import FLASHNEURON
from planner.baselines.pytorch_lms import PYTORCH_LMS
from planner.baselines.superneurons import SUPERNEURONS
from planner.baselines.swapadvisor import SWAPADVISOR
from planner.baselines.teraio import G10, TERAIO
from planner.baselines.tflms import TFLMS_V1, TFLMS_V2
from planner.baselines.torch_pass import TORCH_PASS, TORCH_PASS_SINK
from planner.baselines.torchtitan import TORCHTITAN
from planner.baselines.torchtune import TORCHTUNE
from planner.baselines.vdnn import VDNN_ALL, VDNN_CONV

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
