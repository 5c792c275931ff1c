"""Which faults and controls of the other modules are put into the programs of the fourth part.

Comes in: nothing. Chosen for what makes sense in a program and makes it worse; the diagnosis was
          not run.
Goes out: `FAULTS` and `CONTROLS`, name → names of programs, for faults/ and controls/.
"""

from __future__ import annotations

DIFFUSION, SIAMESE, DETECTOR = "diffusion-moons", "siamese-glyphs", "detector-boxes"
MELODIES, WIND, CLICKS = "lstmlm-melodies", "gaussian-wind", "deepfm-clicks"
STRIPS, PLATE = "ctc-strips", "pinn-plate"


def _on(*names: str) -> str:
    return " ".join(names)


WIRING = {
    "no_zero_grad": DETECTOR,
    "head_only_in_optimizer": STRIPS,
    "optimizer_of_a_copy": CLICKS,
    "step_before_backward": PLATE,
    "batch_norm_in_eval_mode": SIAMESE,
    "no_activations": WIND,
    "weights_assigned_after_the_optimizer": _on(DETECTOR, MELODIES),
    "unfrozen_by_an_attribute_of_the_module": _on(DIFFUSION, STRIPS),
    "zero_grad_between_backward_and_step": WIND,
    "encoder_under_no_grad": SIAMESE,
}
INITIALISATION = {
    "zeros": PLATE,
    "constant": _on(WIND, DETECTOR),
    "standard_normal_init": _on(DIFFUSION, STRIPS),
    "all_matrices_times_ten": _on(PLATE, CLICKS),
    "head_times_hundred": DIFFUSION,
    "uniform_init_from_zero_to_one": DETECTOR,
}
BIAS = {
    "hidden_biases_minus_ten": _on(WIND, CLICKS),
    "one_layer_bias_minus_ten": WIND,
    "target_with_large_offset": _on(WIND, PLATE),
    "bias_rate_times_thousand": DETECTOR,
}
OPTIMIZER = {
    "rate_times_300": _on(DIFFUSION, PLATE),
    "rate_times_100": _on(MELODIES, SIAMESE),
    "rate_over_1000": _on(WIND, STRIPS),
    "sgd_at_the_rate_of_adam": _on(MELODIES, CLICKS),
    "rate_jumps_at_step_100": SIAMESE,
    "weight_decay_of_100": DIFFUSION,
    "l2_penalty_of_one": DETECTOR,
    "clip_norm_far_too_small": DETECTOR,
    "adam_epsilon_of_one": MELODIES,
    "decay_for_epochs_applied_to_steps": STRIPS,
    "l2_penalty_of_one_half_in_adam": WIND,
    "rate_multiplied_by_the_batch_size": DETECTOR,
}
FIT = {
    "few_samples": WIND,
    "far_too_few_steps": _on(STRIPS, DETECTOR),
    "dropout_of_095": WIND,
    "keep_probability_given_as_dropout": MELODIES,
    "a_penalty_on_all_weights_without_a_factor": CLICKS,
}
LOSS = {
    "softmax_before_cross_entropy": MELODIES,
    "relu_on_regression_output": DIFFUSION,
    "sigmoid_on_regression_output": DIFFUSION,
    "sign_error": SIAMESE,
    "loss_divided_twice": DETECTOR,
    "sigmoid_before_the_loss_with_logits": CLICKS,
    "logits_viewed_instead_of_transposed": MELODIES,
    "log_softmax_over_the_sequence": MELODIES,
}
DATA = {
    "inputs_times_1000": PLATE,
    "inputs_plus_100": WIND,
    "inputs_scaled_twice": _on(SIAMESE, PLATE),
    "one_feature_in_other_units": WIND,
    "same_batch_at_every_step": DETECTOR,
    "shuffled_targets": _on(STRIPS, CLICKS),
    "targets_in_thousands": _on(WIND, PLATE),
    "targets_of_the_batch_before": DIFFUSION,
    "unix_time_among_the_numbers": CLICKS,
}
FLOW = {
    "one_activation_times_a_thousandth": WIND,
    "shift_before_a_relu": WIND,
    "plain_rnn_with_gain_of_four": STRIPS,
    "sigmoids_and_tiny_first_weights": WIND,
}
NUMERIC = {
    "nan_in_the_input_at_step_60": DIFFUSION,
    "infinite_target_at_step_100": WIND,
    "constant_feature_divided_by_its_deviation": WIND,
    "half_precision_overflows": DETECTOR,
    "a_weight_is_corrupted_at_step_120": MELODIES,
}
SILENT = {
    "every_target_ignored": MELODIES,
    "loss_multiplied_by_an_empty_mask": SIAMESE,
    "cosine_ends_at_a_tenth": CLICKS,
    "resume_leaves_the_head_out": DETECTOR,
    "resume_restarts_the_schedule_high": WIND,
    "rate_of_zero_from_an_integer_division": PLATE,
    "targets_not_shifted": MELODIES,
    "loss_recomputed_from_detached_output": DETECTOR,
    "checkpoint_whose_keys_do_not_match": _on(WIND, DIFFUSION),
}
FAULTS: dict[str, str] = {
    **(WIRING | INITIALISATION | BIAS | OPTIMIZER | FIT),
    **(LOSS | DATA | FLOW | NUMERIC | SILENT),
}

CONTROLS: dict[str, str] = {
    "nesterov": DETECTOR,
    "rmsprop": SIAMESE,
    "nadam": DIFFUSION,
    "radam": CLICKS,
    "adagrad": CLICKS,
    "adamw_decay": WIND,
    "adamax": WIND,
    "adam": DETECTOR,
    "huber": DIFFUSION,
    "cosine_to_zero": SIAMESE,
    "warm_restarts": DIFFUSION,
    "accumulation_of_four": STRIPS,
    "clipped_at_one": CLICKS,
    "dropout": WIND,
    "with_validation": _on(DETECTOR, CLICKS, WIND),
    "silu": WIND,
    "frozen_first_layer": SIAMESE,
    "orthogonal_layers": PLATE,
    "noise_on_the_gradients": DIFFUSION,
    "average_of_the_weights": DETECTOR,
    "rectangles_erased": STRIPS,
}
