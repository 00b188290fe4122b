"""Do the tests test? Each mutation plants one bug in a copy of the package; the tests it names must then fail.

    python tests/mutations.py                 all of them
    python tests/mutations.py NAME ...        some
    python tests/mutations.py --shard 0/4     every fourth, from the first
    python tests/mutations.py control         none: the same tests must pass

A mutation is a replacement of source text, which must occur exactly once. What should catch it runs in a process
forked from this one, so that torch is imported once.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 120  # that a mutation's tests may take


@dataclass(frozen=True)
class Mutation:
    name: str
    file: str
    edits: tuple[tuple[str, str], ...]
    caught_by: str  # what pytest is given


def law(law: str, case: str) -> str:
    return f"tests/test_laws.py::test_law[{case}-{law}]"


def paper(name: str, test: str) -> str:
    return f"tests/papers/test_{name}.py::{test}"


MAML, REPTILE = "learners/maml.py", "learners/reptile.py"
PROTONET, PRETRAIN = "learners/protonet.py", "learners/pretrain.py"
MARGIN, EMBEDDING, MINED = "learners/margin.py", "objectives/embedding.py", "objectives/mined.py"
MATCHING, SNAIL = "learners/matching.py", "learners/snail.py"
CAUSAL, CONTEXT = "nn/causal.py", "nn/context.py"
META_RNN, LSTM_OPTIMIZER, OPTIM = "learners/meta_rnn.py", "learners/lstm_optimizer.py", "optim.py"
UNROLL = "nn/unroll.py"
TARGETS, QUERY = "targets.py", "objectives/query.py"
DESCENT, NORMS, FUNCTIONAL = "nn/descent.py", "nn/norms.py", "nn/functional.py"
BATCH, TRAIN, EVALUATE = "engine/batch.py", "engine/train.py", "engine/evaluate.py"
STEADY, DEAL, WHOLE = "engine/steady.py", "engine/deal.py", "tests/test_steady.py::"
THREADS, BACKBONES = "engine/threads.py", "nn/backbones.py"
RANKS, INTERRUPT = "engine/ranks.py", "engine/interrupt.py"
SEEDS, CHECKPOINT, POOL = "engine/seeds.py", "engine/checkpoint.py", "tasks/pool.py"
RANKED = "tests/test_distributed.py::"
SEQUENCE = "tests/test_causal.py::"
STATISTICIAN = "learners/neural_statistician.py"
NN, META, ENGINE, TASKS, SETS = (
    f"tests/test_{name}.py::" for name in ("nn", "meta_gradient", "engine", "tasks", "sets")
)
LAYERS = f"{NN}test_conv4_on_a_cpu_is_its_layers"
COMPILED, IN_TURN = f"{LAYERS}[True-shape0-options0]", f"{LAYERS}[False-shape0-options0]"
OMNIGLOT = "tasks/omniglot.py"
OML, CORE, LEADER, STREAMS = "learners/oml.py", "core.py", "outer/follow_leader.py", "tasks/streams.py"
RAINBOW, STREAM_TESTS = "tasks/rainbow_mnist.py", "tests/test_streams.py::"

MUTATIONS = [
    Mutation(name, file, edits if isinstance(edits[0], tuple) else (edits,), caught_by)
    for name, file, edits, caught_by in (
        # Learners
        ("maml loses its second order", UNROLL, ("if first_order:", "if True:"),
         law("meta_gradient_is_the_derivative", "maml")),
        ("first-order maml is of second order", UNROLL, ("if first_order:", "if False:"),
         paper("maml", "test_first_order_is_the_gradient_at_phi")),
        ("first-order maml keeps its waiver without need", UNROLL, ("if first_order:", "if False:"),
         law("meta_gradient_is_the_derivative", "fomaml")),
        ("maml takes one step too few", MAML,
         ("steps=inner_steps, optimizer", "steps=max(1, inner_steps - 1), optimizer"),
         paper("maml", "test_f_is_the_network_after_the_steps")),
        ("maml starts every step from theta", UNROLL,
         ("now = (state, given) if every", "now = (start, given) if every"),
         paper("maml", "test_f_is_the_network_after_the_steps")),
        ("maml sums its inner loss", MAML, ("return loss(net({**rest, **fast}, S.x), S.y)",
         "return loss(net({**rest, **fast}, S.x), S.y) * len(S.y)"),
         paper("maml", "test_f_is_the_network_after_the_steps")),
        ("maml moves theta in place", UNROLL,
         ("        if proximal:\n            g = {n", "        phi[n0 := next(iter(phi))].sub_(g[n0])\n"
         "        if proximal:\n            g = {n"), law("adapt_is_pure", "maml")),
        ("anil moves the body too", MAML,
         ("for n, p in learned(phi).items() if moves(n)}", "for n, p in learned(phi).items()}"),
         paper("maml", "test_anil_moves_the_head_and_learns_the_body")),
        ("meta-sgd does not learn its rates", MAML,
         ('(theta["net"], theta["inner_lr"]) if', '(theta["net"], inner_lr) if'),
         paper("maml", "test_meta_sgd_learns_a_rate_for_each_parameter")),
        ("maml++ has one rate for all steps", MAML, ("{n: a[min(k, len(a) - 1)] for", "{n: a[0] for"),
         paper("maml", "test_maml_plus_plus_learns_a_rate_for_each_tensor_and_step_and_scores_every_step")),
        ("maml++ weighs its steps alike", MAML, ("[w * loss(", "[loss("),
         paper("maml", "test_maml_plus_plus_learns_a_rate_for_each_tensor_and_step_and_scores_every_step")),
        ("maml++ logs the accuracy of its first step", MAML, ("scalars(each[-1]", "scalars(each[0]"),
         paper("maml", "test_maml_plus_plus_learns_a_rate_for_each_tensor_and_step_and_scores_every_step")),
        ("maml's queries have norms of their own", MAML,
         ("query_net, phi = condition(net, phi, S.x)", "query_net = net"),
         law("queries_do_not_see_each_other", "maml-conv4-support")),
        ("reptile's gradient flows through phi", REPTILE,
         (("solve(held, task", "solve(theta, task"), ("q.detach()", "q")),
         paper("reptile", "test_the_gradient_is_theta_minus_phi")),
        ("reptile steps twice as far", REPTILE, (".sum() / 2, {} ", ".sum(), {} "),
         paper("reptile", "test_a_step_of_sgd_at_rate_eps_is_the_papers_update")),
        ("reptile sees its first minibatch only", REPTILE,
         ("torch.arange(k * batch, (k + 1) * batch,", "torch.arange(batch,"),
         paper("reptile", "test_phi_is_adam_without_momentum_on_consecutive_minibatches")),
        ("reptile's last minibatch does not wrap around", REPTILE,
         ("device=S.x.device) % n", "device=S.x.device).clamp(max=n - 1)"),
         paper("reptile", "test_phi_is_adam_without_momentum_on_consecutive_minibatches")),
        ("reptile's inner adam has momentum", REPTILE, ("adam(beta1=0.0)", "adam()"),
         paper("reptile", "test_phi_is_adam_without_momentum_on_consecutive_minibatches")),
        ("reptile adapts to the queries", REPTILE, ("solve(held, task.support)", "solve(held, task.query)"),
         paper("reptile", "test_the_queries_do_not_teach")),
        ("reptile's moments start anew for each task", REPTILE,
         ('return (theta["net"], theta["method"])', 'return (theta["net"], method.init(learned(theta["net"])))'),
         paper("reptile", "test_carried_moments_make_one_run_of_adam_over_the_tasks")),
        ("reptile's moments are not drawn", REPTILE,
         ("state) if carry_moments else learned(phi)", "state) if False else learned(phi)"),
         paper("reptile", "test_carried_moments_make_one_run_of_adam_over_the_tasks")),
        ("adam's second moment is not rescaled", DESCENT,
         ("beta2 * v_scale + (1 - beta2)", "v_scale + 1"),
         paper("reptile", "test_carried_moments_make_one_run_of_adam_over_the_tasks")),
        ("prototypes are sums", PROTONET, (" / count.clamp_min(1)[:, None]", ""),
         paper("protonet", "test_scores_loss_and_gradient")),
        ("absent classes are chosen", PROTONET, ("torch.where(self.present, score, -torch.inf)", "score"),
         paper("protonet", "test_a_class_without_examples_is_never_chosen_and_changes_nothing")),
        ("norm statistics descend", FUNCTIONAL, ("if not n.endswith(STATISTICS)}", "}"),
         f"{NN}test_norm_statistics_are_no_parameters_to_descend"),
        ("prototypes hold back the gradient", PROTONET, ("(member.mT @ z)", "(member.mT @ z.detach())"),
         law("meta_gradient_is_the_derivative", "protonet")),
        ("prototypes depend on the order", PROTONET, ("(member.mT @ z)", "(member.mT @ z.cumsum(0))"),
         law("support_order_is_irrelevant", "protonet")),
        ("distances are not squared", PROTONET, (".square().sum(-1)", ".abs().sum(-1)"),
         paper("protonet", "test_scores_loss_and_gradient")),
        ("queries are centred together", PROTONET,
         ("z = self.embed(self.theta, x)", "z = self.embed(self.theta, x)\n        z = z - z.mean(0)"),
         law("queries_do_not_see_each_other", "protonet")),
        ("cosines are not scaled", PROTONET, (".mT * self.temperature", ".mT"),
         paper("protonet", "test_scores_loss_and_gradient")),
        ("matching adds up logarithms", MATCHING,
         ("torch.where(member, log_a[..., None], -torch.inf).logsumexp(-2)", "log_a @ member.to(log_a)"),
         paper("matching", "test_scores_loss_and_gradient")),
        ("matching's cosines are not scaled", MATCHING, (".mT * self.temperature", ".mT"),
         paper("matching", "test_scores_loss_and_gradient")),
        ("matching normalises over the queries", MATCHING, ("c.log_softmax(-1)", "c.log_softmax(0)"),
         law("queries_do_not_see_each_other", "matching")),
        ("queries match the support set out of context", MATCHING,
         ('"embed": params}, g, S.y', '"embed": params}, embed(theta["embed"], S.x), S.y'),
         paper("matching", "test_scores_loss_and_gradient[fce]")),
        ("the context is learned by half", MATCHING,
         ('read["g"](theta["g"], g) ', 'read["g"](theta["g"], g).detach() '),
         law("meta_gradient_is_the_derivative", "matching-fce")),
        ("the backward LSTM answers in its own order", CONTEXT, ("back.flip(0)", "back"),
         paper("matching", "test_scores_loss_and_gradient[fce]")),
        ("the support context looks one way", CONTEXT,
         ("self.backwards(z.flip(0))", "self.backwards(0 * z)"),
         paper("matching", "test_context_sees_the_whole_support_set_from_both_ends")),
        ("what was read is forgotten", CONTEXT, ("torch.cat([z, r], -1)", "torch.cat([z, 0 * r], -1)"),
         paper("matching", "test_scores_loss_and_gradient[fce]")),
        ("the attentive LSTM keeps no cell", CONTEXT, ("out, ((_, c),) =", "out, _ ="),
         paper("matching", "test_scores_loss_and_gradient[fce]")),
        ("snail is told nothing of labels", SNAIL, ("torch.cat([z, y], -1)", "torch.cat([z, 0 * y], -1)"),
         paper("snail", "test_labels_matter_and_their_order_with_the_examples")),
        ("snail's queries claim a class", SNAIL, ("z.new_zeros(len(z), self.ways)", "z.new_ones(len(z), self.ways)"),
         paper("snail", "test_scores_loss_and_gradient")),
        ("snail's labels follow another order", SNAIL, ("(S.y[:, None] ==", "(S.y.flip(0)[:, None] =="),
         paper("snail", "test_scores_loss_and_gradient")),
        ("snail's embedding is frozen in the support set", SNAIL,
         ('z = embed(theta["embed"], S.x)', 'z = embed(theta["embed"], S.x).detach()'),
         law("meta_gradient_is_the_derivative", "snail")),
        ("snail's queries attend to each other", CAUSAL,
         ("a[:, :-1] @ before_v + a[:, -1:] * v", "a[:, :-1] @ before_v + a[:, -1:] * v.mean(0)"),
         law("queries_do_not_see_each_other", "snail")),
        ("attention sees what comes later", CAUSAL, (".tril()", ""),
         f"{SEQUENCE}test_what_comes_later_has_no_influence"),
        ("a causal convolution remembers one step too few", CAUSAL, ("padded[len(x)]", "padded[len(x) - 1]"),
         f"{SEQUENCE}test_memory_is_what_one_must_know_to_go_on"),
        ("dilations do not grow", CAUSAL, ("2**i))", "1))"),
         f"{SEQUENCE}test_a_tc_block_reaches_back_over_its_length_and_is_no_deeper_than_it_must"),
        ("the number of shots is always the most", POOL,
         ("ways, drawn, queries, generator)", "ways, shots, queries, generator)"),
         f"{TASKS}test_any_number_of_shots_is_drawn_evenly_in_training_and_as_asked_elsewhere"),
        ("pretraining takes the support set", PRETRAIN, ("x, y = task.query", "x, y = task.support"),
         paper("pretrain", "test_the_support_set_has_no_part_in_training")),
        ("a linear head takes one step", PRETRAIN, ("range(inner_steps)", "range(1)"),
         paper("pretrain", "test_a_linear_head_by_adam_from_zero_on_frozen_features")),
        ("a linear head has no bias", PRETRAIN, (".mT + self.v", ".mT"),
         paper("pretrain", "test_a_linear_head_by_adam_from_zero_on_frozen_features")),
        ("the statistician weighs KL(c) by example", STATISTICIAN,
         ('per_set["kl_z"] + per_set["kl_c"]', 'per_set["kl_z"] + len(h) * per_set["kl_c"]'),
         paper("neural_statistician", "test_the_objective_is_the_bound")),
        ("sample dropout drops nothing", STATISTICIAN, ("thinned(member) if dropout else member", "member"),
         paper("neural_statistician", "test_the_objective_is_the_bound")),
        ("sample dropout hides examples from the bound", STATISTICIAN,
         ("by_density=by_density), h, member", "by_density=by_density), h, kept"),
         paper("neural_statistician", "test_the_objective_is_the_bound")),
        ("sample dropout may leave nothing", STATISTICIAN, ("< 1 + (torch.rand_like(size)", "< (torch.rand_like(size)"),
         paper("neural_statistician", "test_sample_dropout_leaves_each_number_and_each_example_as_often")),
        ("statistics pool sums", STATISTICIAN, (", 1) / size.clamp_min(1)", ", 1)"),
         paper("neural_statistician", "test_scores_compare_the_statistics_of_one_example_and_of_a_set")),
        ("the divergence runs backwards", STATISTICIAN, ("-self.c.kl(alone)", "-alone.kl(self.c)"),
         paper("neural_statistician", "test_scores_compare_the_statistics_of_one_example_and_of_a_set")),
        ("latents come from the prior in training", STATISTICIAN, ("z = q_z.draw()", "z = p_z.draw()"),
         paper("neural_statistician", "test_the_objective_is_the_bound")),
        ("importance weights forget q", STATISTICIAN, (" - q_z.log_prob(z))", ")"),
         paper("neural_statistician", "test_densities_and_samples_are_those_of_a_model_that_can_be_solved")),
        ("a class without examples has a KL(c)", STATISTICIAN, ("torch.where(f.present, f.c.kl(), 0.0)", "f.c.kl()"),
         paper("neural_statistician", "test_a_class_without_examples_is_never_chosen_and_changes_nothing")),
        ("the farthest example decides", MARGIN, ("torch.where(of_class, cosine[:, None], -torch.inf).amax(-1)",
         "torch.where(of_class, cosine[:, None], torch.inf).amin(-1)"),
         paper("margin", "test_the_nearest_example_decides")),
        ("support embeddings stay off the sphere", MARGIN,
         ('z = F.normalize(embed(theta["net"], S.x), dim=-1)', 'z = embed(theta["net"], S.x)'),
         paper("margin", "test_the_nearest_example_decides")),
        ("the metric is trained on queries alone", MARGIN,
         ("Data(*(torch.cat(part) for part in zip(*task, strict=True)))", "task.query"),
         paper("margin", "test_loss_and_gradient")),
        ("the margin is asked of every class", EMBEDDING,
         ("torch.where(own, target(params, c.gather(-1, y[:, None])), c)", "target(params, c)"),
         paper("margin", "test_loss_and_gradient")),
        ("sphereface's cosine is not drawn out", EMBEDDING, ("* cos_mt - 2 * k", "* cos_mt"),
         paper("margin", "test_the_margin_of_sphereface_draws_the_cosine_out")),
        ("sphereface starts where it should end", EMBEDDING, ("max(least, first", "min(least, first"),
         paper("margin", "test_the_annealing_of_sphereface")),
        ("sphereface forgets the length of embeddings", EMBEDDING,
         ("(z.norm(dim=-1, keepdim=True) if scale is None else scale)", "(scale or 16.0)"),
         paper("margin", "test_loss_and_gradient")),
        ("arcface turns back past pi", EMBEDDING,
         ("c - margin * sin(margin))", "c * cos(margin) - sine * sin(margin))"),
         paper("margin", "test_it_is_the_loss_of_pytorch_metric_learning")),
        ("arcface divides by zero", EMBEDDING, (".clamp_min(torch.finfo(c.dtype).eps)", ".clamp_min(0)"),
         paper("margin", "test_gradients_are_finite_where_an_embedding_meets_its_class")),
        ("triplets are measured off the square", MINED, ("p=2, power=2", "p=2, power=1"),
         paper("margin", "test_triplets")),
        ("what is mined is not used", MINED, ("(z, y, *mined)", "(z, y)"), paper("margin", "test_triplets")),
        ("in a batch every task has the first one's loss", MINED, ("t.select(axis, i)", "t.select(axis, 0)"),
         law("many_tasks_are_each_task", "margin-triplet-semihard")),
        ("the upstream gradient is dropped", MINED, ("(g * saved for", "(1 * saved for"),
         paper("margin", "test_any_loss_of_pytorch_metric_learning_in_a_batch_of_tasks")),
        ("weights are drawn once for all seeds", MINED, ("torch.manual_seed(seed)", "torch.manual_seed(0)"),
         paper("margin", "test_any_loss_of_pytorch_metric_learning_in_a_batch_of_tasks")),
        ("a recurrent network sees the target it predicts", META_RNN,
         ("torch.cat([torch.zeros_like(S.y[:1]), S.y[:-1]])", "S.y"),
         paper("meta_rnn", "test_a_prediction_is_made_before_its_target_is_seen")),
        ("queries do not see the last target", META_RNN, ("self.y.expand(n, -1)", "0 * self.y.expand(n, -1)"),
         paper("meta_rnn", "test_each_query_is_the_next_example")),
        ("queries go on from each other's states", META_RNN, ("inputs[None], h)[0][0]", "inputs, self.h)[0]"),
         law("queries_do_not_see_each_other", "meta_rnn")),
        ("only the last step is scored", META_RNN,
         ("(loss(p, S.y) * len(S.y) + last) / (len(S.y) + 1)", "last"),
         paper("meta_rnn", "test_every_step_is_scored")),
        ("the state forgets what it has read", META_RNN, ("read(net, theta, checked(S))[1], S.y[-1]",
         "read(net, theta, checked(Data(S.x[-1:], S.y[-1:])))[1], S.y[-1]"),
         paper("meta_rnn", "test_each_query_is_the_next_example")),
        ("the learned optimizer's gradients are of second order", LSTM_OPTIMIZER,
         (("(phi.detach())\n            d = d.detach()", "(phi)"),
          ("value.detach() + d @ (phi - phi.detach())", "value")),
         paper("lstm_optimizer", "test_phi_and_its_meta_gradient")),
        ("back-propagation is not truncated", LSTM_OPTIMIZER, ("t % unroll == 0 and", "t < 0 and"),
         paper("lstm_optimizer", "test_phi_and_its_meta_gradient")),
        ("truncation cuts the loss it comes after", LSTM_OPTIMIZER,
         ("            d, value =",
          "            phi = phi.detach() if t % unroll == 0 else phi\n            d, value ="),
         paper("lstm_optimizer", "test_phi_and_its_meta_gradient")),
        ("coordinates lose their state", LSTM_OPTIMIZER,
         ("g, h = step(m, theta, d, h)", "g, h = step(m, theta, d, None)"),
         paper("lstm_optimizer", "test_phi_and_its_meta_gradient")),
        ("small gradients are not told apart", LSTM_OPTIMIZER, ("torch.e**P * d, d.sign()", "0 * d, d.sign()"),
         paper("lstm_optimizer", "test_preprocessing_at_every_size")),
        ("the start is scored instead of the end", LSTM_OPTIMIZER, ("[*losses[1:], last]", "[*losses]"),
         paper("lstm_optimizer", "test_phi_and_its_meta_gradient")),
        ("a learned optimizer ignores its group's factor", OPTIM, ("p.add_(lr * g", "p.add_(g"),
         "tests/test_optim.py::test_groups_have_their_own_factor"),
        ("a learned optimizer keeps no state", OPTIM, ('kept[f"h{i}"], kept[f"c{i}"] = h_i, c_i', "pass"),
         "tests/test_optim.py::test_a_loop_gives_what_the_learner_gives"),
        ("a closure finds no gradients enabled", OPTIM, ("with torch.enable_grad():", "with torch.no_grad():"),
         "tests/test_optim.py::test_a_closure_is_called_once_with_gradients"),
        # Objectives
        ("the objective adapts to the queries", QUERY, ("adapt(theta, task.support)", "adapt(theta, task.query)"),
         paper("maml", "test_the_meta_gradient_goes_through_every_step")),
        ("accuracy counts the worst guess", TARGETS, ("(scores.argmax(-1)", "(scores.argmin(-1)"),
         paper("protonet", "test_scores_loss_and_gradient")),
        # Parts of networks
        ("adam does not correct its bias", DESCENT, ("_root(v[n] / v_scale)", "_root(v[n])"),
         f"{NN}test_descent_is_torchs"),
        ("rmsprop forgets its momentum", DESCENT, ("momentum * m[n] + g[n] / (", "g[n] / ("),
         f"{NN}test_descent_is_torchs"),
        ("adam's derivative is infinite at zero", DESCENT,
         ("torch.where(v > tiny, v.clamp_min(tiny).sqrt(), torch.zeros_like(v))", "v.sqrt()"),
         f"{NN}test_a_gradient_that_was_always_zero_has_a_finite_derivative"),
        ("support variance is the unbiased one", NORMS, ("x.var(over, correction=0)", "x.var(over)"),
         f"{NN}test_support_norm_takes_the_support_sets_statistics"),
        ("support statistics are held constant", NORMS,
         (("(var + self.eps)", "(var.detach() + self.eps)"), ("bias - mean * scale", "bias - mean.detach() * scale")),
         law("meta_gradient_is_the_derivative", "maml-conv4-support")),
        ("support norms forget eps", NORMS, ("(var + self.eps).rsqrt()", "var.rsqrt()"),
         f"{NN}test_support_norm_takes_the_support_sets_statistics"),
        ("pooled norms forget negative scales", BACKBONES, ("scale < 0, -1.0", "scale < 0, 1.0"), COMPILED),
        ("pooled norms take the statistics of what is left", BACKBONES,
         ("moments(x))", "moments(_largest_of_fours(x)))"), COMPILED),
        ("the patches' covariance is their second moment", BACKBONES, ("rows = rows - mean", "rows = rows * 1"),
         IN_TURN),
        ("patches are cut without the margin", BACKBONES, ("(x, (b, b, a, a))", "(x, (0, 2 * b, 0, 2 * a))"), IN_TURN),
        ("patches' moments are summed in single precision", BACKBONES, ("flatten(0, 2).double()", "flatten(0, 2)"),
         f"{NN}test_a_first_block_keeps_single_precision"),
        ("freed memory goes back to the system", THREADS, ("31 << 20", "1 << 10"),
         "tests/test_operations.py::test_memory_comes_from_what_is_kept"),
        ("a first block's shift misses the mean", NORMS, ("bias - mean * scale", "bias"), IN_TURN),
        ("layer norm is instance norm", NORMS, ("nn.GroupNorm(1, channels", "nn.GroupNorm(channels, channels"),
         f"{NN}test_each_policy_normalises_by_its_own_statistics"),
        ("running norms use the batch at test", FUNCTIONAL, ('"running": not training', '"running": False'),
         f"{NN}test_at_test_running_norms_use_the_population_and_at_training_the_batch"),
        ("init does not heed its seed", FUNCTIONAL, ("torch.manual_seed(seed)", "torch.manual_seed(0)"),
         f"{NN}test_init_is_drawn_from_its_seed_alone"),
        ("init draws from everyone's numbers", FUNCTIONAL, ("with torch.random.fork_rng():", "if True:"),
         f"{NN}test_init_is_drawn_from_its_seed_alone"),
        ("a network's modes are made within a trace", FUNCTIONAL, ("skeleton._variant(*mode)", "mode"),
         "tests/test_laws.py::test_compiles_whole_and_once[protonet-conv4-support]"),
        ("a gaussian's draw takes its variance for its deviation", "nn/distributions.py",
         ("(self.logvar / 2).exp() * torch", "self.logvar.exp() * torch"), f"{SETS}test_gaussians_are_torchs"),
        ("oml loses its second order", OML, ("grad(lambda W: loss(head(W, z), y))(W)",
         "{n: t.detach() for n, t in grad(lambda W: loss(head(W, z), y))(W).items()}"),
         paper("oml", "test_the_meta_gradient_runs_back_through_the_whole_trajectory")),
        ("oml's moments start anew with each example", OML, ("g, W, moments)", "g, W, method.init(W))"),
         paper("oml", "test_the_head_may_step_by_adam")),
        ("oml's representation gets no gradient from the trajectory", OML, ("Data(z, S.y))", "Data(z.detach(), S.y))"),
         law("meta_gradient_is_the_derivative", "oml")),
        ("oml forgets rows of classes that the stream does not hold", OML,
         ("torch.where(met[n]", "torch.where(~met[n]"),
         paper("oml", "test_rows_of_the_classes_in_the_stream_are_learned_anew")),
        ("oml takes every step from where the head began", CORE,
         (("            f = update(f", "            g = update(f"),
          ("return f\n\n    return run", "return g\n\n    return run")),
         paper("oml", "test_the_head_steps_through_the_stream_in_its_order")),
        ("oml reads the stream backwards", OML, ("Data(z, S.y))", "Data(z.flip(0), S.y.flip(0)))"),
         paper("oml", "test_the_head_steps_through_the_stream_in_its_order")),
        ("the leader remembers what has not come yet", LEADER, ("< seen[k][:, None]", "< seen.max()"),
         paper("follow_leader", "test_memory_gives_what_has_been_seen_and_no_example_twice")),
        ("the leader follows past tasks only", LEADER,
         ("order[: t + 1], seen, tasks", "order[: max(1, t)], seen[: max(1, t)], tasks"),
         paper("follow_leader", "test_the_whole_story")),
        ("the leader is judged on points that have not come yet", LEADER,
         ("pool, current, now)", "pool, current, last)"),
         paper("follow_leader", "test_the_whole_story")),
        ("a resumed life forgets its record", LEADER, ('descent, None)["rounds"]', 'descent, None)["rounds"][:0]'),
         paper("follow_leader", "test_ctrl_c_ends_the_arrival_and_keeps_it")),
        ("support and query from memory overlap", LEADER,
         ("Data(x[:, shots:], y[:, shots:])", "Data(x[:, :queries], y[:, :queries])"),
         paper("follow_leader", "test_memory_gives_what_has_been_seen_and_no_example_twice")),
        ("a stream's queries are taken from it", STREAMS,
         ("index[..., shots:].flatten(1)", "index[..., :queries].flatten(1)"),
         f"{STREAM_TESTS}test_a_training_stream_has_the_labels_of_the_whole_list_and_remembers"),
        ("waves are recoded for the queries", STREAMS, ("[:ways, None]", "[:ways].roll(n, 0)[:, None]"),
         f"{STREAM_TESTS}test_sines_come_one_after_another"),
        ("rainbow digits lose their labels", RAINBOW, ("y[k[:, None], index])", "y[k[:, None], index.sort(1).values])"),
         f"{STREAM_TESTS}test_rainbow_tasks_are_of_one_round_with_every_digit"),
        # Engine
        ("the meta-gradient is a sum", BATCH, ("lambda t: t / count(tasks), total", "lambda t: t, total"),
         law("many_tasks_are_each_task", "maml")),
        ("chunks weigh the same, whatever is in them", BATCH,
         ("at_once(theta, parts, spread=spread(tasks))",
          "(pytree.tree_map(lambda t: t * count(parts[0]) / count(part), work(theta, part)) for part in parts)"),
         law("chunks_change_nothing", "maml")),
        ("the last chunk is dropped", BATCH,
         ("range(0, count(tasks), size)", "range(0, count(tasks) - size + 1, size)"),
         law("chunks_change_nothing", "protonet")),
        ("the pooled form is taken for maml", BATCH, ("if learner.differentiates:", "if False:"),
         law("many_tasks_are_each_task", "maml-conv4-transductive")),
        ("the pooled form is taken for maml, stock layers", BATCH, ("if learner.differentiates:", "if False:"),
         f"{META}test_exact_for_stock_norm_layers"),
        ("threads share a module", FUNCTIONAL, ("self._copies[key] = _skeleton(module)", "self._copies[key] = module"),
         "tests/test_exact.py::test_side_by_side_is_one_by_one[maml]"),
        ("threads share modules that are called by hand", THREADS, ("bool(foreign) or not", "not"),
         "tests/test_operations.py::test_what_threads_would_share_stays_in_order"),
        ("threads draw in any order", THREADS, ("bool(foreign) or not torch.equal(", "bool(foreign) or False and ("),
         "tests/test_operations.py::test_work_that_draws_random_numbers_stays_in_order[SideBySide]"),
        ("threads forget autocast", THREADS, (" and not _modes()", ""),
         "tests/test_operations.py::test_what_threads_would_share_stays_in_order"),
        ("keys start anywhere", "nn/causal.py", ("ours.copy_(theirs)", "ours.normal_()"),
         f"{SEQUENCE}test_keys_start_as_queries_and_are_learned_apart"),
        ("checkpoints keep every state", UNROLL, ("LEVELS = 3", "LEVELS = 1"),
         "tests/test_methods.py::test_checkpoints_keep_few_states_and_compute_no_step_more_than_four_times"),
        ("steps computed again share their random numbers", BATCH, (' == "cpu" and not checkpoint', ' == "cpu"'),
         "tests/test_operations.py::test_what_threads_would_share_stays_in_order"),
        ("tasks share their noise", BATCH,
         ('randomness="different")(theta, tasks)', 'randomness="same")(theta, tasks)'),
         f"{META}test_each_task_meets_its_own_noise"),
        ("every step draws the same tasks", DEAL, ('"train", step))', '"train", 0))'),
         f"{ENGINE}test_fit_is_the_loop_one_would_write"),
        ("the schedule stands still", TRAIN, ("        scheduler.step()", "        pass"),
         f"{ENGINE}test_fit_is_the_loop_one_would_write"),
        ("nothing is clipped", STEADY, ("if clip is not None:", "if False:"),
         f"{ENGINE}test_fit_is_the_loop_one_would_write"),
        ("a resumed optimizer has forgotten its moments", TRAIN,
         ('checkpoint.restore_optimizer(descent, tensors, meta["optimizer"])', "pass"),
         f"{ENGINE}test_any_torch_optimizer_trains_and_resumes"),
        ("a resumed schedule begins anew", TRAIN, ('scheduler.load_state_dict(meta["scheduler"])', "pass"),
         f"{ENGINE}test_a_resumed_run_repeats_its_noise_schedule_and_log"),
        ("noise depends on what came before", SEEDS,
         ("torch.default_generator.manual_seed(number)", "pass"),
         f"{ENGINE}test_a_resumed_run_repeats_its_noise_schedule_and_log"),
        ("population statistics are of the first chunk", TRAIN, ("torch.cat(values).mean(0)", "values[0].mean(0)"),
         f"{NN}test_population_statistics_are_the_mean_over_tasks_of_the_batchs"),
        ("validation judges the training learner", TRAIN, ("evaluate(run.learner, theta", "evaluate(learner, theta"),
         f"{ENGINE}test_validation_judges_the_learner_of_meta_test_on_validation_tasks"),
        ("what is not finite goes unseen", TRAIN, ("return math.isfinite(total(grads, loss).item())", "return True"),
         f"{ENGINE}test_a_loss_that_is_not_finite_names_step_task_and_parameter"),
        ("the interval is of a single task", EVALUATE, ("1.96 * spread / n**0.5", "1.96 * spread"),
         f"{ENGINE}test_score_is_the_mean_with_its_interval"),
        ("the interval takes the biased spread", EVALUATE, (".std().item()", ".std(correction=0).item()"),
         f"{ENGINE}test_score_is_the_mean_with_its_interval"),
        ("every block of test tasks is the same", EVALUATE, ('"test", block)', '"test", 0)'),
         f"{ENGINE}test_every_learner_meets_the_same_tasks"),
        ("evaluation ignores the split", EVALUATE, ("getattr(pool, split)", "pool.test"),
         f"{ENGINE}test_evaluate_deals_from_the_split_that_is_asked_for"),
        ("fixed tasks are scored again and again", EVALUATE, ("(min(tasks, fixed), fixed)", "(tasks, fixed)"),
         f"{ENGINE}test_fixed_tasks_are_scored_once_each"),
        ("what is scheduled stays as it began", TRAIN, ("learner.scheduled(run.step)", "learner.scheduled(0)"),
         f"{ENGINE}test_what_is_scheduled_goes_by_the_step_and_by_nothing_else"),
        ("what is scheduled drifts with the optimizer", TRAIN,
         ("if learner.scheduled is not None:", "if learner.scheduled is not None and run.step < 2:"),
         f"{ENGINE}test_what_is_scheduled_goes_by_the_step_and_by_nothing_else"),
        ("streams of one seed are one", SEEDS, ("{seed}/{stream}/{index}", "{seed}/{index}"),
         f"{ENGINE}test_each_place_of_each_stream_of_each_seed_has_its_own_numbers"),
        ("places run into each other", SEEDS, ("{seed}/{stream}/{index}", "{stream}{seed}{index}"),
         f"{ENGINE}test_each_place_of_each_stream_of_each_seed_has_its_own_numbers"),
        ("files are written in place", CHECKPOINT,
         (('open(temporary, "wb")', 'open(target, "wb")'), ("os.replace(temporary, target)", "pass")),
         f"{ENGINE}test_a_full_disk_leaves_what_was_there"),
        ("shapes are not compared", CHECKPOINT, ("if tensors[name].shape != leaf.shape:", "if False:"),
         f"{ENGINE}test_what_does_not_fit_is_named"),
        ("noise runs free in the laws", "testing.py",
         ("_StillNoise() if law in STILL else nullcontext()", "nullcontext()"),
         f"{SETS}test_a_noisy_objective_is_judged_like_any_other"),
        ("noise is held still where it should be found", "testing.py",
         ("_StillNoise() if law in STILL else nullcontext()", "_StillNoise()"),
         f"{SETS}test_a_noisy_predictor_is_still_found_out"),
        ("nobody asks whether a meta-step in one piece was finite", STEADY,
         ("return bool(self.all_finite.item())", "return True"),
         f"{WHOLE}test_what_is_not_finite_is_found_though_nobody_looked[6]"),
        ("theta does not go back with the optimizer", STEADY, ("            leaf.copy_(then)", "            pass"),
         f"{WHOLE}test_what_is_not_finite_is_found_though_nobody_looked[6]"),
        ("a meta-step in one piece is not clipped", STEADY, ("point(self.leaves, grads, self.clip)",
         "point(self.leaves, grads, None)"), f"{WHOLE}test_steps_in_one_piece_are_the_steps[adam]"),
        ("a captured step is not done when it is captured", STEADY,
         ("            self._capture()\n", "            self._capture()\n            return self.result\n"),
         f"{WHOLE}test_a_captured_step_is_replayed_bit_by_bit[sgd]"),
        ("later steps deal the same tasks", DEAL, ('"train", step))', '"train", min(step, 5)))'),
         f"{RANKED}test_a_share_is_drawn_without_the_others"),
        ("reptile brings its indices from the host", REPTILE,
         ("device=S.x.device) % n", "device=S.x.device) % n\n                B = [i % n for i in range(batch)]"),
         f"{WHOLE}test_no_learner_waits_for_a_number[reptile]"),
        ("what waits for a number is captured all the same", STEADY, ("        if waits:", "        if False:"),
         f"{WHOLE}test_work_that_waits_is_not_captured"),
        # Many processes
        ("shares overlap", RANKS, ("(self.rank + 1) * n // self.size", "-(-(self.rank + 1) * n // self.size)"),
         f"{RANKED}test_shares_cover_the_tasks_once"),
        ("ranks of few tasks weigh as much as ranks of many", RANKS, ("(stop - start) / n", "1 / self.size"),
         f"{RANKED}test_shares_cover_the_tasks_once"),
        ("ranks are not weighed", RANKS, ("(weight * t.detach()", "(1 / self.size * t.detach()"),
         f"{RANKED}test_the_sum_over_ranks_is_the_gradient_of_all_tasks"),
        ("a share begins with its block", DEAL, ("part = slice(share.start - first * BLOCK,", "part = slice(0,"),
         f"{RANKED}test_a_share_is_drawn_without_the_others"),
        ("blocks of tasks are the same", DEAL, ('f"train block {block}" if block else "train"', '"train"'),
         f"{RANKED}test_a_share_is_drawn_without_the_others"),
        ("one of many stops by itself", INTERRUPT, ("self.agreed if self.many else self.heard", "self.heard"),
         f"{RANKED}test_ctrl_c_in_one_of_many_is_held_until_they_agree"),
        ("one of many never stops again", INTERRUPT, ("not (self.many and error)", "not self.many"),
         f"{RANKED}test_ctrl_c_in_one_of_many_is_held_until_they_agree"),
        # Tasks
        ("every problem starts at one place", "tasks/problems.py",
         ("self.spread * torch.randn(tasks, *p.shape, ",
          "self.spread * torch.ones(tasks, *[1] * p.dim()) * torch.randn(1, *p.shape, "),
         f"{TASKS}test_problems_bring_a_start_for_each_task"),
        ("quadratic functions are scaled by their corners", "tasks/functions.py", ("corners + level", "corners"),
         f"{TASKS}test_quadratic"),
        ("queries are shown in the support set", POOL, ("index[..., shots:]", "index[..., :queries]"),
         f"{TASKS}test_a_task_is_a_consistent_relabelling_of_distinct_classes_and_never_shows_a_query_in_its_support"),
        ("a class is drawn twice", POOL,
         ("rand(tasks, len(eligible)).topk(ways).indices", "(rand(tasks, ways) * len(eligible)).long()"),
         f"{TASKS}test_a_task_is_a_consistent_relabelling_of_distinct_classes_and_never_shows_a_query_in_its_support"),
        ("support labels do not follow their examples", POOL, ("order // shots", "order.sort(1).values // shots"),
         f"{TASKS}test_a_task_is_a_consistent_relabelling_of_distinct_classes_and_never_shows_a_query_in_its_support"),
        ("a small class borrows from the next", POOL,
         (">= counts[..., None], -1.0)", ">= counts.amax().expand_as(counts)[..., None], -1.0)"),
         f"{TASKS}test_draws_are_even"),
        ("test tasks are varied like training tasks", "tasks/varied.py", ("self.pool.test)", "self)"),
         f"{SETS}test_varied_changes_training_tasks_alone"),
        ("fixed tasks run out", POOL, ("% len(self.all.support.x)", "% tasks"),
         f"{TASKS}test_fixed_tasks_are_dealt_in_order_and_again"),
        ("characters are held out one by one", OMNIGLOT, ('if name.split("/")[0] in held_out', "if c % 7 == 0"),
         f"{TASKS}test_whole_alphabets_are_held_out"),
        ("Lake's queries are taken for sorted", OMNIGLOT, ("known.index(image) for _, image in pairs",
         "i for i, _ in enumerate(pairs)"), f"{TASKS}test_runs_are_read_as_their_labels_say"),
        ("each example is turned by itself", POOL, ("(tasks, ways, 1)", "(tasks, ways, shots + queries)"),
         f"{TASKS}test_rotations_per_task_turn_each_class_as_a_whole"),
    )
]  # fmt: skip

# A change that is no bug: every test above must pass with it, or what they catch would mean nothing.
CONTROL = Mutation(
    "control", "core.py", (("The vocabulary:", "The words:"),), " ".join(sorted({m.caught_by for m in MUTATIONS}))
)


def plant(mutation: Mutation, folder: Path) -> None:
    """Copy the package to folder, with the bug."""
    shutil.copytree(ROOT / "metaloop", folder / "metaloop", ignore=shutil.ignore_patterns("__pycache__"))
    file = folder / "metaloop" / mutation.file
    for old, new in mutation.edits:
        source = file.read_text()
        if source.count(old) != 1:
            raise ValueError(f"{mutation.name}: {mutation.file} has {old!r} {source.count(old)} times, expected once.")
        file.write_text(source.replace(old, new))


def try_out(mutation: Mutation) -> str:
    """ "" if the tests caught the bug, otherwise what happened instead."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plant(mutation, folder)
        child = os.fork()
        if child == 0:
            _run_tests(mutation, folder)
        signal.alarm(SECONDS)
        signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
        _, status = os.waitpid(child, 0)
        signal.alarm(0)
        output = (folder / "output").read_text()
    code = os.waitstatus_to_exitcode(status)
    if code == 1:
        return ""
    return "SURVIVES" if code == 0 else f"the tests did not run (exit {code}):\n{output}"


def _run_tests(mutation: Mutation, folder: Path) -> None:
    """In the child: pytest on the copy. Never returns."""
    code = 70
    try:
        output = os.open(folder / "output", os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(ROOT)
        sys.path.insert(0, str(folder))
        sys.dont_write_bytecode = True
        import metaloop

        assert Path(metaloop.__file__).is_relative_to(folder), metaloop.__file__
        import pytest

        options = ["-x", "--tb=line", "-p", "no:cacheprovider", "-p", "no:xdist"]
        code = int(pytest.main([*options, *mutation.caught_by.split()]))
    finally:
        sys.stdout.flush()
        os._exit(code)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--shard", default="0/1")
    options = parser.parse_args(arguments)
    first, every = map(int, options.shard.split("/"))
    chosen = [m for m in (*MUTATIONS, CONTROL) if m.name in options.names] or MUTATIONS[first::every]

    import pytest  # noqa: F401  (imported here once, for all children)
    import safetensors.torch  # noqa: F401
    import torch

    torch.set_num_threads(1)
    wrong = 0
    for mutation in chosen:
        began = time.monotonic()
        outcome = try_out(mutation)
        wrong += bool(outcome)
        print(f"{time.monotonic() - began:5.1f} s  {mutation.name}: {outcome or 'caught'}", flush=True)
    print(f"{len(chosen) - wrong} of {len(chosen)} caught")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
