#!/bin/bash
# What travels to a GPU machine without network, made here, in the root of the checkout (10 minutes on 2 cores; fp8 10 more):
#   studies/gpu/prepare.sh [wheels] [formats] [torchao] [peers] [corpus] [text] [tied] [latency] [fp8]; without a word: all but formats, torchao, peers, fp8
set -e
python=${PYTHON:-.venv/bin/python} shared=${SHARED:-../shared}
data=$shared/data
mkdir -p .gpu .whl .carry
cp -n "$shared"/gpu/*.tar.xz .gpu/
fetch() {
    local to=$1; shift
    "$python" -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp $(printf -- \
        '--platform manylinux_2_%s_x86_64 ' 28 27 17) --platform manylinux2014_x86_64 --platform manylinux1_x86_64 -d "$to" "$@"
}
for part in ${@:-wheels corpus text tied latency}; do
    case $part in
    wheels) fetch .whl rich markdown-it-py mdurl pygments shellingham click jinja2 markupsafe pyyaml pytest pluggy iniconfig einops \
        fla-core==0.6.0 hypothesis sortedcontainers annotated-doc beartype typing_extensions packaging ;;
    formats) fetch .whl compressed-tensors==0.20.1 loguru pydantic==2.14.4 pydantic_core==2.50.5 annotated_types typing_inspection ;;
    torchao)  # without its kernels for other machines, to travel beside both kits
        fetch /tmp/torchao torchao==0.18.0
        (cd /tmp/torchao && unzip -qo *.whl -x '*.so' '*.pkl' && rm ./*.whl && tar cJf "$OLDPWD/.gpu/torchao.tar.xz" .) ;;
    peers)  # distill_speed.py and kl_loss.py
        fetch .carry/peers trl==1.16.0 liger-kernel==0.8.5 nvidia-modelopt==0.47.0 datasets==5.2.0 dill multiprocess httpx2 \
            httpcore2 truststore omegaconf torchao pulp==3.3.0 pytz pydantic==2.14.3 pydantic_core==2.50.4 annotated_types typing_inspection
        "$python" -m pip wheel -q --no-deps -w .carry/peers antlr4-python3-runtime==4.9.3 ;;
    corpus) "$python" -m minipuzzle.embedded.corpus --shared "$data" --out .carry/corpus --package /tmp/minipuzzle-package ;;
    text)  # every third training document of the corpus
        [ -d .carry/corpus ] || "$0" corpus
        "$python" - <<'PYTHON'
import lzma, shutil
from pathlib import Path
from minipuzzle.embedded.corpus import SEPARATOR
source, target = Path(".carry/corpus"), Path(".carry/text")
target.mkdir(exist_ok=True)
for name in ("prose.train.txt.xz", "code.train.txt.xz"):
    documents = lzma.open(source / name, "rt").read().split(SEPARATOR)[::3]
    (target / name).write_bytes(lzma.compress(SEPARATOR.join(documents).encode(), preset=6))
shutil.copytree(source / "val", target / "val", dirs_exist_ok=True)
PYTHON
        ;;
    tied) "$python" studies/tied_lora_tasks.py --shared "$data" --out .carry/tied_lora ;;
    latency)  # on a quiet machine: the embedded teacher's and the larger one's
        "$python" -m minipuzzle profile embedded --run /tmp/table_embedded --workload b1,p512,o64 --device cpu
        "$python" - <<'PYTHON'
import json, os, yaml
model = yaml.safe_load(open("studies/larger_teacher.yaml"))["model"]
os.makedirs("/tmp/larger_config", exist_ok=True)
layers = len(model["hybrid_override_pattern"])
json.dump({**model, "architectures": ["NemotronHForCausalLM"], "num_hidden_layers": layers}, open("/tmp/larger_config/config.json", "w"))
PYTHON
        "$python" -m minipuzzle profile /tmp/larger_config --run /tmp/table_larger --workload b1,p512,o64 --device cpu
        cp /tmp/table_embedded/latency.json .carry/table_embedded.json
        cp /tmp/table_larger/latency.json .carry/table_larger.json ;;
    fp8) "$python" studies/fp8_data.py --shared "$data" --out .carry/fp8 ;;
    *) echo "unknown part $part" >&2; exit 2 ;;
    esac
done
du -sh .gpu .whl .carry/*
