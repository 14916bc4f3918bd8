"""
Train the per-frame network from scratch on CamVid and the rendered street.

    python -m featshare_core.training.per_frame --camvid DIR --output weights/default.safetensors

The weights do not depend on where the network is cut. An interrupted run goes on where its last
snapshot was written.
"""
from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from featshare_core.data.camvid import camvid_files, read_camvid
from featshare_core.data.synthetic import RenderedStreet
from featshare_core.evaluation.accuracy import class_iou, confusion_matrix, mean_iou
from featshare_core.labels import CAMVID, UNLABELLED
from featshare_core.networks.checkpoint import Config, save_checkpoint
from featshare_core.networks.fpn import FPN

Sample = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]

CROP = (352, 256)
SNAPSHOT_STEPS = 200


def rendered_samples(seeds: range, frames: int) -> list[Sample]:
    """Return ``frames`` frames of the street of each seed, two seconds apart, in two shapes."""
    sizes = ((480, 360), (544, 320))
    streets = (RenderedStreet(*sizes[seed % 2], seed=seed) for seed in seeds)
    return [street.frame(50 * index) for street in streets for index in range(frames)]


def augment(sample: Sample, rng: np.random.Generator) -> Sample:
    """Return a crop of ``CROP`` pixels, turned, scaled, mirrored and with its colours shifted."""
    image, labels = sample
    height, width = labels.shape
    scale = float(np.exp(rng.uniform(np.log(0.7), np.log(1.8))))
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(-10, 10), scale)
    # The crop's place: anywhere in the scaled image, or centred where that one is smaller.
    for axis, (side, crop) in enumerate(((width, CROP[0]), (height, CROP[1]))):
        slack = max(0.0, side * scale - crop) / 2
        turn[axis, 2] += crop / 2 - side / 2 + rng.uniform(-slack, slack)
    image = cv2.warpAffine(image, turn, CROP, flags=cv2.INTER_LINEAR,
                           borderMode=cv2.BORDER_REFLECT_101)
    labels = cv2.warpAffine(labels, turn, CROP, flags=cv2.INTER_NEAREST,
                            borderMode=cv2.BORDER_CONSTANT, borderValue=UNLABELLED)
    if rng.random() < 0.5:
        image, labels = image[:, ::-1], labels[:, ::-1]
    # Saturation, brightness, colour cast and gamma, as other cameras and weather have them.
    saturation = rng.uniform(0.3, 1.4)
    image = cv2.transform(image, saturation * np.eye(3) + (1 - saturation) / 3)
    gains = rng.uniform(0.6, 1.5) * rng.uniform(0.85, 1.15, 3)
    curve = np.clip(np.arange(256)[:, None] / 255 * gains, 0, 1) ** rng.uniform(0.7, 1.4)
    image = cv2.LUT(image, np.round(255 * curve).astype(np.uint8)[None])
    if rng.random() < 0.2:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.5))
    noise = rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(0, 6))
    image = np.clip(image + noise, 0, 255).astype(np.uint8)
    return image, np.ascontiguousarray(labels)


def class_weights(samples: list[Sample]) -> torch.Tensor:
    """Return 1 / log(1.1 + share of pixels) per class (ENet, arXiv 1606.02147), mean 1."""
    counts = sum(np.bincount(labels.ravel(), minlength=256)[:len(CAMVID)]
                 for _, labels in samples)
    weights = 1 / np.log(1.1 + counts / np.sum(counts))
    return torch.tensor(weights / weights.mean(), dtype=torch.float32)


def to_input(images: npt.NDArray[np.uint8], config: Config) -> torch.Tensor:
    """Return NxHxWx3 uint8 images as normalised Nx3xHxW floats."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (config.mean, config.std))
    return ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def evaluate(network: FPN, samples: list[Sample], config: Config) -> npt.NDArray[np.int64]:
    """Return the confusion matrix of the network run on every sample on its own."""
    network.eval()
    matrix = np.zeros((len(CAMVID), len(CAMVID)), np.int64)
    for image, labels in samples:
        height, width = labels.shape
        size = (width // 32 * 32, height // 32 * 32)
        resized = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), np.uint8)
        with torch.autocast('cpu', torch.bfloat16):
            logits = network(to_input(resized[None], config))
        logits = F.interpolate(logits.float(), size=(height, width), mode='bilinear')
        predicted = logits.argmax(1)[0].to(torch.uint8).numpy()
        matrix += confusion_matrix(labels, predicted, len(CAMVID))
    return matrix


def train(arguments: argparse.Namespace) -> None:
    """Train, score on CamVid's validation split, write the checkpoint."""
    cv2.setNumThreads(1)  # its threads and PyTorch's spin against each other
    torch.manual_seed(arguments.seed)
    rng = np.random.default_rng(arguments.seed)
    camvid = [read_camvid(*files) for files in camvid_files(arguments.camvid, 'train')]
    street = rendered_samples(range(1, 61), 4)
    config = Config('fpn-densenet121', CAMVID, (480, 352), {'shared_levels': 2})
    network = FPN(len(CAMVID))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), arguments.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, arguments.lr, total_steps=arguments.steps, pct_start=0.15)
    weights = class_weights(camvid)
    snapshot = Path(arguments.output).with_suffix('.snapshot.pt')
    first = 0
    if snapshot.is_file():
        state = torch.load(snapshot, weights_only=True)
        network.load_state_dict(state['network'])
        optimizer.load_state_dict(state['optimizer'])
        schedule.load_state_dict(state['schedule'])
        first = state['step']
        rng = np.random.default_rng([arguments.seed, first])
    start, losses = time.monotonic(), []
    network.train()
    for step in range(first, arguments.steps):
        sources = [street if rng.random() < arguments.street_share else camvid
                   for _ in range(arguments.batch)]
        batch = [augment(source[rng.integers(len(source))], rng) for source in sources]
        images = to_input(np.stack([image for image, _ in batch]), config)
        labels = torch.from_numpy(np.stack([label for _, label in batch])).long()
        with torch.autocast('cpu', torch.bfloat16):
            logits = network(images)
        logits = F.interpolate(logits.float(), scale_factor=2, mode='bilinear')
        loss = F.cross_entropy(logits, labels, weights, ignore_index=UNLABELLED)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if (step + 1) % 50 == 0:
            pace = (time.monotonic() - start) / (step + 1 - first)
            print(f'step {step + 1}/{arguments.steps} loss {np.mean(losses[-50:]):.3f} '
                  f'{pace:.2f} s/step', flush=True)
        if (step + 1) % SNAPSHOT_STEPS == 0:
            torch.save({'network': network.state_dict(), 'optimizer': optimizer.state_dict(),
                        'schedule': schedule.state_dict(), 'step': step + 1},
                       snapshot.with_suffix('.unfinished'))
            os.replace(snapshot.with_suffix('.unfinished'), snapshot)
    val = [read_camvid(*files) for files in camvid_files(arguments.camvid, 'val')]
    matrix = evaluate(network, val, config)
    street_matrix = evaluate(network, rendered_samples(range(1000, 1010), 4), config)
    scores = {'camvid_val_miou': round(100 * mean_iou(matrix), 2),
              'street_miou': round(100 * mean_iou(street_matrix), 2)}
    print(scores, dict(zip(CAMVID.names, (100 * class_iou(matrix)).round(1).tolist())))
    recipe = {'script': 'featshare_core.training.per_frame', 'data': 'CamVid train, street',
              **{name: getattr(arguments, name)
                 for name in ('steps', 'batch', 'lr', 'seed', 'street_share')}}
    config = Config(config.network, config.labels, config.input_size, config.options,
                    training=recipe, scores=scores)
    save_checkpoint(arguments.output, network, config)


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--camvid', required=True, help='folder with train, trainannot, val, ...')
    parser.add_argument('--output', required=True, help='the .safetensors file to write')
    parser.add_argument('--steps', type=int, default=3000)
    parser.add_argument('--batch', type=int, default=6)
    parser.add_argument('--lr', type=float, default=1.2e-3)
    parser.add_argument('--street-share', type=float, default=0.25)
    parser.add_argument('--seed', type=int, default=0)
    train(parser.parse_args())


if __name__ == '__main__':
    main()
