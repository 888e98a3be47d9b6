"""Does the checkpoint load? A random picture and any words do to find out."""

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForVision2Seq, AutoProcessor

processor = AutoProcessor.from_pretrained("openvla/openvla-7b", trust_remote_code=True)
vla = AutoModelForVision2Seq.from_pretrained("openvla/openvla-7b", torch_dtype=torch.bfloat16, trust_remote_code=True)
vla = vla.to("cuda").eval()
noise = Image.fromarray(np.random.randint(0, 255, (224, 224, 3), dtype=np.uint8))
inputs = processor("a test", noise).to("cuda", dtype=torch.bfloat16)
print(vla.predict_action(**inputs, unnorm_key="bridge_orig", do_sample=False).shape)
