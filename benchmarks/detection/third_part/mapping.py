"""Which faults and controls of the other modules are put into the programs of the third part.

Comes in: nothing. Chosen for what makes sense in a program and makes it worse; the diagnosis was
          not run.
Goes out: `FAULTS` and `CONTROLS`, name → names of programs, for faults/ and controls/.
"""

from __future__ import annotations

MIXER, COUNTER, WAVENET = "mixer-marks", "separable-spots", "wavenet-thresholds"
GRAPH, TOWERS, UNET = "graphnet-communities", "towers-pairs", "unet-patterns"
DECODER, SCENES, GRID = "decoder-sums", "twoheads-scenes", "qlearning-grid"


def _on(*names: str) -> str:
    return " ".join(names)


WIRING = {
    "no_zero_grad": COUNTER,
    "head_only_in_optimizer": UNET,
    "optimizer_of_a_copy": TOWERS,
    "step_before_backward": GRID,
    "batch_norm_in_eval_mode": COUNTER,
    "no_activations": SCENES,
    "weights_assigned_after_the_optimizer": WAVENET,
}
INITIALISATION = {
    "zeros": _on(SCENES, WAVENET),
    "constant": _on(GRAPH, SCENES),
    "standard_normal_init": _on(SCENES, DECODER),
    "all_matrices_times_ten": _on(GRAPH, DECODER),
    "head_times_hundred": _on(MIXER, WAVENET),
}
BIAS = {
    "hidden_biases_minus_ten": _on(GRID, TOWERS),
    "one_layer_bias_minus_ten": GRID,
    "head_bias_favours_one_class": GRAPH,
    "target_with_large_offset": _on(UNET, WAVENET),
    "bias_rate_times_thousand": _on(SCENES, GRID),
}
OPTIMIZER = {
    "rate_times_300": _on(UNET, GRAPH),
    "rate_times_100": _on(DECODER, MIXER),
    "rate_over_1000": _on(TOWERS, GRID),
    "rate_over_10000": _on(COUNTER, UNET),
    "sgd_at_the_rate_of_adam": _on(MIXER, SCENES),
    "rate_jumps_at_step_100": _on(SCENES, UNET),
    "weight_decay_of_100": _on(MIXER, SCENES),
    "l2_penalty_of_one": COUNTER,
    "clip_norm_far_too_small": COUNTER,
    "adam_epsilon_of_one": _on(UNET, GRAPH),
    "momentum_of_0999": COUNTER,
    "decay_for_epochs_applied_to_steps": _on(TOWERS, WAVENET),
    "one_huge_batch": SCENES,
    "momentum_and_weight_decay_swapped": COUNTER,
    "betas_swapped": MIXER,
    "l2_penalty_of_one_half_in_adam": UNET,
    "warm_up_of_a_million_steps": GRAPH,
}
FIT = {
    "few_samples": SCENES,
    "far_too_few_steps": WAVENET,
    "hidden_width_of_one": GRID,
    "dropout_of_095": SCENES,
    "memorises_random_labels": MIXER,
}
LOSS = {
    "softmax_before_cross_entropy": DECODER,
    "softmax_over_the_batch": MIXER,
    "sigmoid_before_cross_entropy": MIXER,
    "relu_on_regression_output": _on(UNET, WAVENET),
    "sigmoid_on_regression_output": UNET,
    "tanh_on_output_for_large_targets": WAVENET,
    "nll_loss_on_logits": MIXER,
    "sign_error": _on(TOWERS, SCENES),
    "loss_divided_twice": COUNTER,
    "logits_viewed_instead_of_transposed": GRAPH,
}
DATA = {
    "inputs_times_1000": SCENES,
    "inputs_plus_100": _on(UNET, MIXER),
    "inputs_scaled_twice": _on(SCENES, WAVENET),
    "one_feature_in_other_units": SCENES,
    "inputs_all_zero": COUNTER,
    "same_batch_at_every_step": _on(TOWERS, MIXER),
    "shuffled_targets": _on(COUNTER, GRAPH, DECODER),
    "eighty_percent_of_labels_random": MIXER,
    "sorted_by_class": MIXER,
    "hundred_of_one_class_to_one": MIXER,
    "targets_in_thousands": _on(UNET, WAVENET),
    "reshape_mixes_samples": _on(COUNTER, SCENES),
    "images_flipped_without_their_masks": UNET,
}
FLOW = {
    "one_activation_times_a_thousandth": SCENES,
    "attention_logits_times_10000": DECODER,
    "shift_before_a_relu": SCENES,
}
NUMERIC = {
    "nan_in_the_input_at_step_60": _on(MIXER, UNET),
    "infinite_target_at_step_100": COUNTER,
    "constant_feature_divided_by_its_deviation": SCENES,
    "unbounded_exponential": SCENES,
    "half_precision_overflows": UNET,
    "adam_epsilon_of_zero": TOWERS,
    "a_weight_is_corrupted_at_step_120": _on(DECODER, SCENES),
}
SILENT = {
    "every_target_ignored": GRAPH,
    "all_but_the_last_token_masked": GRAPH,
    "loss_multiplied_by_an_empty_mask": WAVENET,
    "cosine_ends_at_a_tenth": DECODER,
    "resume_leaves_the_head_out": COUNTER,
    "resume_restarts_the_schedule_high": TOWERS,
    "main_term_weighted_zero": MIXER,
    "rate_of_zero_from_an_integer_division": GRID,
    "loss_recomputed_from_detached_output": UNET,
}
FAULTS: dict[str, str] = {
    **(WIRING | INITIALISATION | BIAS | OPTIMIZER | FIT),
    **(LOSS | DATA | FLOW | NUMERIC | SILENT),
}

CONTROLS: dict[str, str] = {
    "nesterov": UNET,
    "rmsprop": SCENES,
    "nadam": GRID,
    "radam": GRAPH,
    "adam": COUNTER,
    "adamw_decay": WAVENET,
    "adamax": TOWERS,
    "huber": UNET,
    "label_smoothing": MIXER,
    "cosine_to_zero": _on(GRID, WAVENET),
    "warm_restarts": SCENES,
    "accumulation_of_four": GRAPH,
    "clipped_at_one": WAVENET,
    "dropout": SCENES,
    "with_validation": _on(DECODER, GRAPH, SCENES),
    "frozen_first_layer": UNET,
    "bfloat16_autocast": SCENES,
    "batch_of_128": SCENES,
}
