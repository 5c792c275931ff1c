"""Which faults and controls of the other modules are put into the programs of the second part.

Comes in: nothing. Chosen for what makes sense in a program and makes it worse; what the diagnosis
          says of a case was not looked at.
Goes out: `FAULTS` and `CONTROLS`, name → names of programs, for faults/ and controls/.
"""

from __future__ import annotations

VGG, SIGNAL, TAGGER = "vgg-textures", "signalnet-beats", "tagger-grammar"
ENCODER, TABLE, SELU = "encoder-motifs", "tabular-purchases", "selu-arm"
BLOBS, VAE = "segmentation-blobs", "vae-strokes"
ACTOR, TRANSLATOR = "actorcritic-levels", "translator-reversals"


def _on(*names: str) -> str:
    return " ".join(names)


WIRING = {
    "no_zero_grad": _on(VGG, TRANSLATOR),
    "detached_in_the_middle": _on(BLOBS, SELU),
    "head_only_in_optimizer": _on(SIGNAL, VGG),
    "head_replaced_after_optimizer": SIGNAL,
    "optimizer_of_a_copy": _on(TABLE, BLOBS),
    "step_before_backward": _on(TABLE, ACTOR),
    "batch_norm_in_eval_mode": BLOBS,
    "no_activations": SELU,
}
INITIALISATION = {
    "zeros": _on(VGG, SELU),
    "constant": _on(VGG, SIGNAL),
    "standard_normal_init": _on(VGG, ENCODER),
    "all_matrices_times_ten": _on(ENCODER, TRANSLATOR),
    "head_times_hundred": TAGGER,
    "tiny_normal_init": _on(VGG, SELU),
    "default_init_20_layers": SELU,
    "one_layer_tiny": SELU,
    "one_layer_times_fifty": _on(VGG, SELU),
}
BIAS = {
    "hidden_biases_minus_ten": _on(VGG, VAE),
    "one_layer_bias_minus_ten": VGG,
    "head_bias_favours_one_class": ENCODER,
    "target_with_large_offset": SELU,
    "weight_decay_on_biases": SELU,
    "bias_rate_times_thousand": _on(VGG, ENCODER),
    "no_biases_at_all": SELU,
}
OPTIMIZER = {
    "rate_times_300": _on(VGG, SELU),
    "rate_times_100": _on(TAGGER, ACTOR),
    "rate_over_1000": _on(SIGNAL, VAE, ACTOR),
    "rate_over_10000": _on(BLOBS, TRANSLATOR),
    "sgd_at_the_rate_of_adam": _on(ENCODER, TRANSLATOR),
    "rate_jumps_at_step_100": _on(SIGNAL, TABLE),
    "weight_decay_of_100": _on(ENCODER, TABLE),
    "l2_penalty_of_one": _on(VGG, BLOBS),
    "clip_norm_far_too_small": _on(VGG, BLOBS),
    "adam_epsilon_of_one": _on(TAGGER, TABLE),
    "momentum_of_0999": _on(VGG, BLOBS),
    "batch_of_one": VGG,
    "decay_for_epochs_applied_to_steps": _on(TAGGER, VAE),
    "one_huge_batch": BLOBS,
}
FIT = {
    "few_samples": _on(SELU, TABLE),
    "far_too_few_steps": _on(BLOBS, TRANSLATOR),
    "hidden_width_of_one": SELU,
    "dropout_of_095": _on(VGG, VAE),
    "memorises_random_labels": VGG,
}
LOSS = {
    "softmax_before_cross_entropy": _on(VGG, TAGGER),
    "softmax_over_the_batch": SIGNAL,
    "sigmoid_before_cross_entropy": BLOBS,
    "relu_on_regression_output": SELU,
    "sigmoid_on_regression_output": SELU,
    "tanh_on_output_for_large_targets": SELU,
    "nll_loss_on_logits": _on(SIGNAL, BLOBS),
    "nll_loss_on_probabilities": VGG,
    "squared_error_on_class_numbers": SIGNAL,
    "sign_error": _on(ENCODER, TRANSLATOR),
    "binary_loss_on_softmax": VGG,
    "loss_divided_twice": _on(VGG, BLOBS),
    "loss_of_first_token_only": _on(TAGGER, TRANSLATOR),
    "target_shifted_by_five": TAGGER,
}
DATA = {
    "inputs_times_1000": _on(VGG, SELU),
    "inputs_plus_100": _on(VGG, SELU),
    "inputs_scaled_twice": _on(VGG, SELU),
    "one_feature_in_other_units": _on(SELU, TABLE),
    "inputs_all_zero": _on(SIGNAL, BLOBS),
    "same_batch_at_every_step": _on(ENCODER, TABLE),
    "shuffled_targets": _on(ENCODER, BLOBS, TAGGER),
    "eighty_percent_of_labels_random": _on(VGG, SIGNAL),
    "sorted_by_class": _on(VGG, ENCODER),
    "targets_in_thousands": SELU,
    "hundred_of_one_class_to_one": _on(SIGNAL, ENCODER),
    "one_class_weighted_times_10000": VGG,
    "reshape_mixes_samples": _on(VGG, BLOBS),
}
FLOW = {
    "ten_sigmoid_layers": SELU,
    "saturated_tanh_layers": SELU,
    "gain_of_three_in_ten_layers": SELU,
    "one_activation_times_a_thousandth": _on(VGG, SELU),
    "plain_rnn_with_gain_of_four": TAGGER,
    "a_large_step_kills_the_relus": VGG,
    "attention_logits_times_10000": ENCODER,
    "shift_before_a_relu": VGG,
}
NUMERIC = {
    "nan_in_the_input_at_step_60": _on(SIGNAL, VAE, TABLE),
    "constant_feature_divided_by_its_deviation": _on(SELU, TABLE),
    "log_of_a_softmax_that_underflows": VGG,
    "square_root_of_zero_in_the_loss": SELU,
    "unbounded_exponential": SELU,
    "half_precision_overflows": BLOBS,
    "adam_epsilon_of_zero": TAGGER,
    "a_weight_is_corrupted_at_step_120": _on(SIGNAL, ENCODER),
}
SILENT = {
    "every_target_ignored": _on(BLOBS, ENCODER),
    "all_but_the_last_token_masked": TAGGER,
    "loss_multiplied_by_an_empty_mask": _on(BLOBS, VAE),
    "cosine_ends_at_a_tenth": _on(SIGNAL, TAGGER),
    "resume_leaves_the_head_out": _on(VGG, ENCODER),
    "resume_restarts_the_schedule_high": _on(TRANSLATOR, SIGNAL),
    "main_term_weighted_zero": _on(VGG, ENCODER),
    "rate_of_zero_from_an_integer_division": _on(TAGGER, VAE),
    "loss_recomputed_from_detached_output": _on(VGG, BLOBS),
}
FAULTS: dict[str, str] = {
    **(WIRING | INITIALISATION | BIAS | OPTIMIZER | FIT),
    **(LOSS | DATA | FLOW | NUMERIC | SILENT),
}

CONTROLS: dict[str, str] = {
    "sgd": SELU,
    "nesterov": SIGNAL,
    "rmsprop": _on(TAGGER, VAE),
    "nadam": _on(TRANSLATOR, SELU),
    "radam": _on(SIGNAL, TAGGER),
    "adagrad": VAE,
    "adam": _on(BLOBS, TABLE),
    "adamw_decay": _on(ENCODER, TRANSLATOR),
    "adamax": TABLE,
    "absolute_error": SELU,
    "label_smoothing": _on(VGG, ENCODER),
    "targets_with_variance_nine": SELU,
    "warm_up": _on(TAGGER, VAE),
    "cosine_to_zero": _on(TAGGER, ACTOR),
    "warm_restarts": _on(TABLE, TRANSLATOR),
    "accumulation_of_four": _on(ENCODER, SIGNAL),
    "clipped_at_one": _on(SIGNAL, VAE),
    "dropout": VGG,
    "with_validation": _on(VGG, TABLE, BLOBS, VAE),
    "silu": VGG,
    "frozen_first_layer": VGG,
    "bfloat16_autocast": SELU,
    "fine_tuning_from_a_low_loss": VGG,
}
