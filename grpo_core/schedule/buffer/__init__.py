"""The queue between the rollout thread and the trainer, its batches on disk, and which of them can be used again."""
