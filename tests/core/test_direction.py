"""The direction of a metric, by its name in the ways in which people write it."""

import pytest

from lightning_fed.core.direction import better, worst_decile

LOW = """loss val_loss val/loss valLoss valloss train_loss_epoch val_loss/dataloader_idx_1 VAL_LOSS logloss
    error top1_error err@1 error_rate MeanSquaredError mean_absolute_error mse val_MSE RMSE rmse nrmse mae smape
    cross_entropy BCELoss bce CE xent perplexity ppl nll val-nll kl_divergence KLDiv wer cer fid brier_score ece
    hamming_distance HammingLoss fpr false_negative_rate negative_log_likelihood negative_elbo neg_log_likelihood
    workers/val_loss/p10 worker/bob/val_loss round/seconds neg_accuracy"""
HIGH = """acc val_acc val/acc valAcc accuracy_top5 top1 f1 F1Score auroc AUC precision recall iou mIoU dice r2 R2Score
    bleu rouge psnr ssim map mAP ndcg log_likelihood elbo neg_log_loss neg_mean_squared_error true_negative_rate
    negative_predictive_value score reward return specificity cosine_similarity val_ace glossary closest reference
    workers/val_acc/p10 terrain"""


@pytest.mark.parametrize("metric", [*LOW.split(), "Val Loss"])
def test_low_is_good(metric: str) -> None:
    assert (better(metric), worst_decile(metric)) == ("min", "p90")


@pytest.mark.parametrize("metric", [*HIGH.split(), "", "é", "7"])
def test_high_is_good(metric: str) -> None:
    assert (better(metric), worst_decile(metric)) == ("max", "p10")
