#!/usr/bin/env bash
# DEPO (arXiv 2602.06375) as its authors ran it, on an unpatched verl 0.9.1: Qwen2.5-7B-Instruct on DAPO-MATH-17K, 2 nodes of 8 GPUs.
#
#   pip install "depo-rl[verl]"            # into the environment of verl and its rollout engine
#   bash examples/verl_depo_paper.sh                   # DEPO: symmetric clipping, no penalty of length
#   USE_DAPO=True bash examples/verl_depo_paper.sh     # DEPO + DAPO: clip-higher and the overlong penalty
#   bash examples/verl_depo_paper.sh --cfg job         # only print the configuration
#
# More Hydra overrides may follow. With algorithm.filter_groups.enable=True verl also replaces the groups without signal that are left (dynamic sampling).
set -euo pipefail

MODEL=${MODEL:-$HOME/models/Qwen2.5-7B-Instruct}
ENCODER=${ENCODER:-$HOME/models/distilbert-base-uncased}     # a directory: nothing is downloaded
TRAIN=${TRAIN:-$HOME/data/dapo-math-17k.parquet}
VALIDATION=${VALIDATION:-$HOME/data/aime-2024.parquet}
USE_DAPO=${USE_DAPO:-False}

RESPONSE=10240
CLIP_HIGH=$([[ $USE_DAPO == True ]] && echo 0.28 || echo 0.2)

overrides=(
    # depo: the published window, 100 steps of warm-up, a DistilBERT with two heads that learns online from pass rates and log-probabilities.
    data.custom_cls.path=pkg://depo.integrations.verl
    data.custom_cls.name=DepoRLHFDataset
    data.dataloader_num_workers=0
    trainer.v1.sampler.custom_sampler.path=pkg://depo.integrations.verl_buffer
    trainer.v1.sampler.custom_sampler.name=DepoReplayBuffer
    +data.depo.selection.preset=depo_paper
    +data.depo.estimator.preset=depo_paper
    "+data.depo.estimator.model=$ENCODER"
    actor_rollout_ref.rollout.calculate_log_probs=True
    algorithm.filter_groups.metric=acc

    "data.train_files=$TRAIN"
    "data.val_files=$VALIDATION"
    data.train_batch_size=128
    data.max_prompt_length=2048
    data.max_response_length=$RESPONSE
    data.filter_overlong_prompts=True

    algorithm.adv_estimator=grpo
    "actor_rollout_ref.model.path=$MODEL"
    actor_rollout_ref.model.use_remove_padding=True
    actor_rollout_ref.model.enable_gradient_checkpointing=True
    actor_rollout_ref.actor.optim.lr=1e-6
    actor_rollout_ref.actor.optim.lr_warmup_steps=10
    actor_rollout_ref.actor.optim.weight_decay=0.1
    actor_rollout_ref.actor.optim.clip_grad=1.0
    actor_rollout_ref.actor.ppo_mini_batch_size=64
    actor_rollout_ref.actor.use_dynamic_bsz=True
    actor_rollout_ref.actor.ppo_max_token_len_per_gpu=$((2048 + RESPONSE))
    actor_rollout_ref.actor.clip_ratio_low=0.2
    "actor_rollout_ref.actor.clip_ratio_high=$CLIP_HIGH"
    actor_rollout_ref.actor.clip_ratio_c=10.0
    actor_rollout_ref.actor.loss_agg_mode=token-mean
    actor_rollout_ref.actor.entropy_coeff=0
    actor_rollout_ref.actor.use_kl_loss=False

    actor_rollout_ref.rollout.name=vllm
    actor_rollout_ref.rollout.n=8
    actor_rollout_ref.rollout.temperature=1.0
    actor_rollout_ref.rollout.top_p=1.0

    reward.reward_manager.name=dapo
    "+reward.reward_kwargs.overlong_buffer_cfg.enable=$USE_DAPO"
    +reward.reward_kwargs.overlong_buffer_cfg.len=4096
    +reward.reward_kwargs.overlong_buffer_cfg.penalty_factor=1.0
    +reward.reward_kwargs.overlong_buffer_cfg.log=False
    +reward.reward_kwargs.max_resp_len=$RESPONSE

    trainer.project_name=depo
    "trainer.experiment_name=depo_paper_dapo_$USE_DAPO"
    trainer.nnodes=2
    trainer.n_gpus_per_node=8
    trainer.total_training_steps=1000
    trainer.save_freq=100
    trainer.test_freq=10
)
python3 -m verl.trainer.main_ppo "${overrides[@]}" "$@"
