"""Policies by name."""

import numpy as np
import torch
from transformers import AutoModelForVision2Seq, AutoProcessor

from .images import centre_crop, prepare

REGISTRY = {}


def register(name):
    def wrap(cls):
        REGISTRY[name] = cls
        return cls

    return wrap


class Policy:
    def reset(self):
        pass

    def act(self, obs, instruction):
        return self.postprocess(self.predict(prepare(obs), instruction))

    def predict(self, image, instruction):
        raise NotImplementedError

    def postprocess(self, action):
        return action


@register("openvla")
class OpenVLA(Policy):
    TEMPLATE = "In: What action should the robot take to {}?\nOut:"

    def __init__(self, config):
        self.config = config
        self.processor = AutoProcessor.from_pretrained(config.checkpoint, trust_remote_code=True)
        self.model = AutoModelForVision2Seq.from_pretrained(
            config.checkpoint, torch_dtype=torch.bfloat16, trust_remote_code=True
        )
        self.model = self.model.to(config.device).eval()

    def predict(self, image, instruction):
        if self.config.center_crop:
            image = centre_crop(image)
        inputs = self.processor(self.TEMPLATE.format(instruction.lower()), image)
        inputs = inputs.to(self.config.device, dtype=torch.bfloat16)
        return self.model.predict_action(**inputs, unnorm_key=self.config.suite, do_sample=False)

    def postprocess(self, action):
        action = np.array(action)
        action[-1] = 1.0 - 2.0 * (action[-1] > 0.5)
        return action


def make_policy(config):
    return REGISTRY[config.policy](config)
