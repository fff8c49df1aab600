"""What the masks of Segment Anything depend on, known without torch and without reading weights."""

from __future__ import annotations

from typing import Any

from semires_trainer.spec.resolved import ResolvedSam

PUBLIC_SHA256 = {
    "ViTH": "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",  # sam_vit_h_4b8939.pth
    "ViTL": "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",  # sam_vit_l_0b3195.pth
    "ViTB": "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",  # sam_vit_b_01ec64.pth
}
"""sha256 of the three published files."""

PUBLIC_BYTES = {"ViTH": 2_564_550_879, "ViTL": 1_249_524_607, "ViTB": 375_042_383}
"""Their sizes."""


def expected_sha256(section: ResolvedSam) -> str:
    """The checksum that the weights file must have: the one given, else that of the published file."""
    return (section.sha256 or PUBLIC_SHA256[section.model]).lower()


def sam_parameters(section: ResolvedSam) -> dict[str, Any]:
    """What the masks depend on besides weights and image. Points decoded at once change nothing."""
    return {
        "version": 1,
        "pointsPerSide": section.points_per_side,
        "predIouThreshold": section.pred_iou_threshold,
        "stabilityScoreThreshold": section.stability_score_threshold,
        "stabilityScoreOffset": section.stability_score_offset,
        "boxNmsThreshold": section.box_nms_threshold,
        "cropLayers": section.crop_layers,
        "minMaskRegionArea": section.min_mask_region_area,
        "mode": section.mode,
    }
