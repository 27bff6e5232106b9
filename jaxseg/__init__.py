"""jaxseg: scores and losses for image segmentation in JAX, as pure functions."""

from jaxseg._boundary_losses import (
    boundary_dou_loss,
    boundary_loss,
    hausdorff_dt_loss,
    hausdorff_erosion_loss,
)
from jaxseg._class_weights import effective_number, inverse_frequency, median_frequency
from jaxseg._compound_losses import (
    bce_dice_loss,
    deep_supervision,
    dice_ce_loss,
    dice_focal_loss,
    dice_top_k_loss,
    exponential_logarithmic_loss,
    linear_dice_ce_loss,
    unified_focal_loss,
)
from jaxseg._counts import (
    Counts,
    confusion_matrix,
    counts,
    counts_from_confusion,
)
from jaxseg._distance import centre_distance, distance_transform, signed_distance
from jaxseg._labels import check_labels, predict_labels
from jaxseg._lovasz_losses import lovasz_hinge_loss, lovasz_softmax_loss
from jaxseg._marginal_logits import marginal_logits
from jaxseg._moments import Moments, mean, moments, std
from jaxseg._pixel_losses import (
    border_weights,
    cross_entropy_loss,
    nacl_loss,
    ohem_loss,
    softmax_focal_loss,
    top_k_loss,
)
from jaxseg._region_losses import (
    dice_loss,
    focal_tversky_loss,
    generalized_dice_loss,
    generalized_wasserstein_dice_loss,
    iou_loss,
    log_cosh_dice_loss,
    log_dice_loss,
    matthews_correlation_loss,
    sensitivity_specificity_loss,
    tversky_loss,
)
from jaxseg._running import Running, pad_batch, psum, running, total
from jaxseg._scores import (
    accuracy,
    balanced_accuracy,
    class_report,
    class_table,
    cohen_kappa,
    dice,
    expected_cost,
    false_discovery_rate,
    false_negative_rate,
    false_omission_rate,
    false_positive_rate,
    fbeta,
    fowlkes_mallows,
    frequency_weighted_iou,
    generalized_dice,
    informedness,
    iou,
    jaccard,
    markedness,
    matthews_correlation,
    mean_class_accuracy,
    mean_iou,
    multiclass_matthews_correlation,
    negative_likelihood_ratio,
    negative_predictive_value,
    net_benefit,
    pixel_accuracy,
    positive_likelihood_ratio,
    precision,
    prevalence,
    prevalence_threshold,
    recall,
    relative_volume_difference,
    sensitivity,
    specificity,
    tversky,
    volumetric_similarity,
)
from jaxseg._skeleton import (
    SkeletonCounts,
    cldice,
    skeleton,
    skeleton_counts,
    topology_precision,
    topology_sensitivity,
)
from jaxseg._surface import (
    SurfaceDistances,
    average_surface_distance,
    boundary_f_score,
    boundary_iou,
    edges,
    hausdorff_distance,
    surface_dice,
    surface_distances,
)
from jaxseg._topology_losses import (
    cldice_loss,
    dice_cldice_loss,
    skeleton_recall_loss,
    soft_skeleton,
)

__version__ = "0.1.0"
from jaxseg._soft_counts import soft_counts

__all__ = [
    # statistics
    "Counts",
    "counts",
    "soft_counts",
    "confusion_matrix",
    "counts_from_confusion",
    # class weights
    "inverse_frequency",
    "effective_number",
    "median_frequency",
    # labels
    "predict_labels",
    "check_labels",
    "marginal_logits",
    # moments of values per case
    "Moments",
    "moments",
    "mean",
    "std",
    # sums over steps and devices
    "Running",
    "running",
    "total",
    "psum",
    "pad_batch",
    # scores of Counts
    "dice",
    "iou",
    "jaccard",
    "tversky",
    "fbeta",
    "precision",
    "recall",
    "sensitivity",
    "specificity",
    "negative_predictive_value",
    "false_positive_rate",
    "false_negative_rate",
    "false_discovery_rate",
    "false_omission_rate",
    "accuracy",
    "balanced_accuracy",
    "informedness",
    "markedness",
    "matthews_correlation",
    "fowlkes_mallows",
    "positive_likelihood_ratio",
    "negative_likelihood_ratio",
    "prevalence_threshold",
    "net_benefit",
    "volumetric_similarity",
    "relative_volume_difference",
    "prevalence",
    "generalized_dice",
    # scores of a confusion matrix
    "pixel_accuracy",
    "mean_class_accuracy",
    "mean_iou",
    "frequency_weighted_iou",
    "cohen_kappa",
    "multiclass_matthews_correlation",
    "expected_cost",
    "class_report",
    "class_table",
    # skeletons
    "SkeletonCounts",
    "skeleton_counts",
    "cldice",
    "topology_precision",
    "topology_sensitivity",
    "skeleton",
    # region losses
    "dice_loss",
    "iou_loss",
    "tversky_loss",
    "focal_tversky_loss",
    "log_dice_loss",
    "log_cosh_dice_loss",
    "generalized_dice_loss",
    "generalized_wasserstein_dice_loss",
    "matthews_correlation_loss",
    "sensitivity_specificity_loss",
    # pixel losses
    "cross_entropy_loss",
    "softmax_focal_loss",
    "nacl_loss",
    "top_k_loss",
    "ohem_loss",
    "lovasz_hinge_loss",
    "lovasz_softmax_loss",
    "border_weights",
    # boundary losses
    "boundary_loss",
    "hausdorff_dt_loss",
    "hausdorff_erosion_loss",
    "boundary_dou_loss",
    # topology losses
    "soft_skeleton",
    "cldice_loss",
    "dice_cldice_loss",
    "skeleton_recall_loss",
    # compound losses
    "bce_dice_loss",
    "dice_ce_loss",
    "linear_dice_ce_loss",
    "dice_focal_loss",
    "dice_top_k_loss",
    "exponential_logarithmic_loss",
    "unified_focal_loss",
    "deep_supervision",
    # distances
    "distance_transform",
    "signed_distance",
    "centre_distance",
    # surfaces
    "edges",
    "SurfaceDistances",
    "surface_distances",
    "hausdorff_distance",
    "average_surface_distance",
    "surface_dice",
    "boundary_f_score",
    "boundary_iou",
]
