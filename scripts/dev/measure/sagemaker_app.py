"""The WSGI application of SageMaker's scikit-learn container, put together as its
`sagemaker_sklearn_container.serving` does, from the package that does the work in both."""

import collections.abc
import importlib
import os

# The package was written for Python 3.9; the image patches it in the same way.
collections.Mapping = collections.abc.Mapping

from sagemaker_containers.beta.framework import transformer, worker  # noqa: E402

app = None


def main(environ, start_response):
    global app
    if app is None:  # the first request a worker gets loads the model
        user = importlib.import_module(os.environ["SAGEMAKER_PROGRAM"].removesuffix(".py"))
        served = transformer.Transformer(
            model_fn=user.model_fn,
            input_fn=user.input_fn,
            predict_fn=user.predict_fn,
            output_fn=user.output_fn,
        )
        served.initialize()
        app = worker.Worker(transform_fn=served.transform, module_name=user.__name__)
    return app(environ, start_response)
