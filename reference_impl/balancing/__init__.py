"""Balancing: the losses of the tasks in, one weight for each task out."""

from reference_impl.balancing.dynamic_task_prioritization import dynamic_task_prioritization, moving_indicator
from reference_impl.balancing.guided_loss import guided_loss
from reference_impl.balancing.task_weighting import task_weighting

__all__ = ["dynamic_task_prioritization", "guided_loss", "moving_indicator", "task_weighting"]
