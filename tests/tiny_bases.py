"""Tiny random bases of any architecture with a sequence-classification class, made from its config."""

import torch
from conftest import WORDS
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

REGISTERED = sorted(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES)
POSITIONS = 66
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
_SIZES = {
    32: "hidden_size d_model dim n_embd emb_dim embedding_size pooler_hidden_size",
    2: "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers num_decoder_layers "
    "num_key_value_heads num_experts_per_tok num_experts num_local_experts n_routed_experts moe_topk",
    4: "num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads",
    8: "head_dim d_head d_kv kv_lora_rank q_lora_rank v_head_dim qk_nope_head_dim qk_rope_head_dim",
    64: "intermediate_size d_ff ffn_dim encoder_ffn_dim decoder_ffn_dim hidden_dim d_inner moe_intermediate_size "
    "n_inner shared_expert_intermediate_size",
    POSITIONS: "max_position_embeddings n_positions max_seq_len n_ctx",
}  # fmt: skip
# Settings that the sizes above do not determine.
_SPECIAL_CASES = {
    "funnel": {"block_sizes": [1, 1], "num_decoder_layers": 1, "architectures": ["FunnelModel"]},
    "longformer": {"attention_window": [16, 16]},
    "opt": {"word_embed_proj_dim": 16},
    "electra": {"embedding_size": 16},
    "albert": {"embedding_size": 16},
    "modernbert": {"global_attn_every_n_layers": 2, "cls_token_id": 0, "sep_token_id": 2},
    "phi3": {"original_max_position_embeddings": POSITIONS},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "deberta": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "xlnet": {"vocab_size": 200},
    "mobilebert": {"intra_bottleneck_size": 32, "true_hidden_size": 32, "embedding_size": 32},
    "squeezebert": {"embedding_size": 32},
}


def tokenizer(kind="unigram", *, ends=True):
    """A tokenizer with every word of the tests; `kind` is its model, `ends` whether it adds <s> and </s>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    signs = sorted(set("".join(WORDS) + "abcdefghijklmnopqrstuvwxyz<>/[]|"))
    if kind == "unigram":
        pieces = [*SPECIAL, "▁", *(f"▁{word}" for word in WORDS), *signs]
        pieces = list(dict.fromkeys(pieces))
        inner = Tokenizer(models.Unigram([(piece, -float(len(piece) < 2)) for piece in pieces], unk_id=3))
        inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    elif kind == "wordlevel":
        vocabulary = {word: index for index, word in enumerate(dict.fromkeys([*SPECIAL, *WORDS]))}
        inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    else:
        trained = {
            "bpe": (models.BPE(), trainers.BpeTrainer),
            "wordpiece": (models.WordPiece(unk_token="<unk>"), trainers.WordPieceTrainer),
        }
        model, trainer = trained[kind]
        inner = Tokenizer(model)
        if kind == "bpe":
            inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        else:
            inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        inner.train_from_iterator(
            [" ".join([*WORDS, *signs])] * 3, trainer(vocab_size=160, special_tokens=SPECIAL, show_progress=False)
        )
    if ends:
        inner.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", cls_token="<s>", eos_token="</s>", sep_token="</s>", pad_token="<pad>",
        unk_token="<unk>", mask_token="<mask>",
    )  # fmt: skip


def config(model_type, **settings):
    """The config of a tiny model, as small as the names of its settings allow."""
    kind = CONFIG_MAPPING[model_type]
    known = kind()
    sizes = {name: size for size, names in _SIZES.items() for name in names.split() if hasattr(known, name)}
    mapped = set(getattr(kind, "attribute_map", {}))
    sizes = {name: size for name, size in sizes.items() if name not in mapped}
    tokens = {"vocab_size": 200, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    if model_type in ("funnel", "xlnet"):
        # Properties that cannot be set.
        sizes.pop("num_hidden_layers" if model_type == "funnel" else "max_position_embeddings", None)
    if known.is_encoder_decoder:
        tokens["decoder_start_token_id"] = 0
    if "layer_types" in vars(known) and known.layer_types:
        sizes["layer_types"] = [known.layer_types[0], known.layer_types[-1]]
    return kind(**{**sizes, **tokens, **_SPECIAL_CASES.get(model_type, {}), **settings})


def make(model_type, folder, *, labels=None, kind="unigram", ends=True, **settings):
    """Write a tiny base, with a head for `labels` labels if given, and return its folder."""
    torch.manual_seed(7)
    made = config(model_type, **settings)
    if labels:
        made.num_labels = labels
        model = AutoModelForSequenceClassification.from_config(made)
    else:
        model = AutoModel.from_config(made)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    model.save_pretrained(folder)
    saved = tokenizer(kind, ends=ends)
    if model_type in (
        "distilbert",
        "longformer",
        "roberta",
        "camembert",
        "mpnet",
        "xlnet",
        "bart",
        "t5",
        "opt",
        "fnet",
    ):
        saved.model_input_names = ["input_ids", "attention_mask"]
    saved.save_pretrained(folder)
    return folder
