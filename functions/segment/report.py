"""Write the log line of a finished job, and count rejections and duplicates."""

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

from cytomask.records import Result


class Report:
    """Log a finished job in one line, and count what else happens.

    template.yaml makes metrics of the figures in `mask_written`.
    """

    def __init__(self, logger: Logger, metrics: Metrics) -> None:
        self._logger = logger
        self._metrics = metrics

    def finished(self, result: Result) -> None:
        """Report a job that ended: `image_rejected` with the reason, or `mask_written` with its figures."""
        if result.error:
            self._logger.warning(
                "image_rejected",
                job_id=result.job_id,
                image=result.image and result.image.uri,
                error_code=result.error.code,
                error=result.error.message,
            )
            self._metrics.add_metric("Rejected", MetricUnit.Count, 1)
            return
        self._logger.info(
            "mask_written",
            job_id=result.job_id,
            image=result.image and result.image.uri,
            mask=result.mask,
            group=result.group,
            model=result.model and result.model.name,
            confluence=result.confluence,
            confluence_low=result.confluence_low,
            confluence_high=result.confluence_high,
            quality={flag.name: flag.value for flag in result.quality},
            pages=len(result.pages),
            flagged_pages=sum(bool(page.quality) for page in result.pages),
            megapixels=result.pixels / 1e6,
            timings_ms=result.timings_ms,
            estimated_cost_usd=result.estimated_cost_usd,
        )

    def repeated(self, job_id: str, image: str) -> None:
        """Report a request whose job was finished before."""
        self._logger.info("duplicate_ignored", job_id=job_id, image=image)
        self._metrics.add_metric("Duplicates", MetricUnit.Count, 1)

    def model_refused(self) -> None:
        """Count an invocation in which the container's model stands in for the stack's own."""
        self._metrics.add_metric("ModelsRefused", MetricUnit.Count, 1)
