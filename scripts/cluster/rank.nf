// Rank a folder by Nextflow: each task its share of the files, and one makes one list of theirs.
//   nextflow run scripts/cluster/rank.nf --input /data/night --output /data/lists --shares 100
// Tasks have folders of their own: --input is a whole path, or s3://.
params.checkout = "${projectDir}/../.."
params.shares = 100

process share {
    cpus 4
    memory '4 GB'
    errorStrategy 'retry'
    maxRetries 2

    input:
    val number

    output:
    path "ranked-*"

    // 3: some files have no rank; they are in the list, with their reasons.
    script:
    """
    "${params.checkout}/.venv/bin/python" "${params.checkout}/scripts/rank.py" "${params.input}" \\
        -o ranked-${number}.csv --shard ${number}/${params.shares} --workers ${task.cpus} || [ \$? -eq 3 ]
    """
}

process merge {
    publishDir params.output, mode: 'copy'

    input:
    path shares

    output:
    path "list.csv"

    script:
    """
    "${params.checkout}/.venv/bin/python" "${params.checkout}/scripts/rank.py" --merge ranked-*.csv -o list.csv
    """
}

workflow {
    share(channel.of(1..params.shares)) | collect | merge
}
