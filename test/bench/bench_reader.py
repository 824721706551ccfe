"""Images a second and core of the OSVOS reader, against usual ways, interleaved on the same drawn
480p frames.

    python test/bench/bench_reader.py [--rounds=5] [--torch]

Work of `plain`: a 480x854 JPEG and its PNG mask become float32 minus mean and a 0/1 mask.
`augmented` adds OSVOS's mirror, turn and zoom. `decode` is the floor: both files decoded and
nothing else. One JSON line a variant.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / 'test'))

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import sample_data  # noqa: E402
import tensorflow.compat.v1 as tf  # noqa: E402

from common import masks  # noqa: E402
from OSVOS import config, data  # noqa: E402

COUNT = 32  # frames
SIZE = (480, 854)  # px


def draw(folder):
    """COUNT pairs of a textured 480p JPEG (about 100 kB) and a mask."""
    pairs, source = [], np.random.RandomState(0)
    for i, (image, mask) in enumerate(sample_data.clip(source, COUNT, 2)):
        image = cv2.resize(image, SIZE[::-1], interpolation=cv2.INTER_CUBIC)
        grain = source.normal(0, 7, image.shape)
        image = np.clip(image + grain, 0, 255).astype(np.uint8)
        path = os.path.join(folder, f'{i:03d}')
        cv2.imwrite(path + '.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, 80])
        masks.write_mask(
            path + '.png', cv2.resize(mask, SIZE[::-1], interpolation=cv2.INTER_NEAREST)
        )
        pairs.append((path + '.jpg', path + '.png', 0))
    return pairs


def ours(pairs, augment):
    """A function that reads COUNT examples through OSVOS.data as training does."""
    cfg = config.get_config('full')
    cfg.update(pairs=pairs, batch_size=1, device='cpu', workers=1)
    draws = data.training_samples(cfg) if augment else None

    def read():
        for pair in pairs:
            sample = next(draws) if augment else pair + (False, 0.0, 1.0)
            data.example(sample[0].encode(), sample[1].encode(), *sample[2:], size=SIZE)

    return read


def decode(pairs):
    """Both files decoded, nothing else."""

    def read():
        for image, mask, _ in pairs:
            masks.read_image(image)
            masks.read_mask(mask)

    return read


def tf_naive(pairs):
    """tf.data with TensorFlow's decoders and float images, as tutorials write it."""
    graph = tf.Graph()
    with graph.as_default():
        dataset = tf.data.Dataset.from_tensor_slices(
            ([p[0] for p in pairs], [p[1] for p in pairs])
        ).repeat()

        def read(image, mask):
            image = tf.image.decode_jpeg(tf.read_file(image), 3)
            mask = tf.image.decode_png(tf.read_file(mask), 1)
            image = tf.cast(image[..., ::-1], tf.float32) - data.MEAN
            return image, tf.cast(mask > 0, tf.float32)

        step = tf.data.make_one_shot_iterator(dataset.map(read, 1).batch(1).prefetch(1)).get_next()
        session = tf.Session(
            config=tf.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
        )
    return lambda: [session.run(step) for _ in pairs]


def torch_loader(pairs):
    """torch's DataLoader with OpenCV in one worker process."""
    import torch

    class Frames(torch.utils.data.Dataset):
        def __len__(self):
            return len(pairs)

        def __getitem__(self, i):
            image = cv2.imread(pairs[i][0]).astype(np.float32) - data.MEAN
            mask = (cv2.imread(pairs[i][1], 0) > 0).astype(np.float32)
            return image.transpose(2, 0, 1), mask

    loader = torch.utils.data.DataLoader(Frames(), 1, num_workers=0)
    return lambda: [None for _ in loader]


def main():
    """Interleaves the variants and prints medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--torch', action='store_true', help="PyTorch's DataLoader too")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        pairs = draw(folder)
        variants = {
            'decode': decode(pairs),
            'plain': ours(pairs, False),
            'augmented': ours(pairs, True),
            'tf_naive': tf_naive(pairs),
        }
        if args.torch:
            variants['torch_loader'] = torch_loader(pairs)
        seconds = {name: [] for name in variants}
        for i in range(args.rounds + 1):
            for name, read in variants.items():
                begin = time.process_time()
                read()
                seconds[name] += [time.process_time() - begin] if i else []
    rates = {name: COUNT / statistics.median(values) for name, values in seconds.items()}
    for name, rate in rates.items():
        print(
            json.dumps(
                {
                    'bench': 'reader',
                    'variant': name,
                    'images_per_cpu_s': round(rate, 1),
                    'of_decode': round(rate / rates['decode'], 2),
                    'times_tf_naive': round(rate / rates['tf_naive'], 2),
                }
            )
        )


if __name__ == '__main__':
    main()
