"""Where labelled images come from: one file per format, listed without decoding, read at random.

| source | what it is |
|---|---|
| digits | the handwritten digits of scikit-learn |
| folder | one folder per class, nested as deep as one likes |
| ilsvrc | the tars of ILSVRC2012, not unpacked |
| tfrecord | ImageNet by the TPU converter or by TFDS |
| webdataset | tars of key.jpg with key.cls or key.json |
| parquet | Hugging Face: columns image and label |
| npz | ADM: arr_0 u8[N,H,W,C], arr_1 labels |
| manifest | a set of synthaug's own shards |
"""

from __future__ import annotations

from synthaug.data.sources.reader import Reader
from synthaug.data.sources.scanning import check_counts, label_order, scan, scan_made, split

__all__ = ["Reader", "check_counts", "label_order", "scan", "scan_made", "split"]
